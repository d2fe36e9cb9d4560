"""One run on disk and on the screen: errors, ledger, folder, metrics, progress bar, flags."""
