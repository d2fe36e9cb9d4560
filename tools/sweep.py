"""Runs many searches: in worker processes here, as a SLURM job array, or as jobs on Hugging Face.

    python -m tools.sweep --engine slurm --out results/runs < searches

One search a line, as it would be typed behind `python`, in the folder of the repository:

    migrate.py FLAGS .. --resume DIR        # or --out DIR, where no run is to be continued
    -m examples.graph_ga FLAGS .. --out DIR

with DIR somewhere below the --out given here. Any module will do that has a main(argv) and writes
DIR/summary.json when it has finished. A finished search is left out: the same command, given again,
runs what is missing. What a search prints goes to DIR.log. Exit code 1 if any search did not
finish. run_all.sh writes such lines.

--jobs: how many at a time (local: as many as cores; slurm: as many as the cluster lets; hf: 4).

slurm  One search is one task of an array. sbatch reads its settings from the environment:
       SBATCH_PARTITION, SBATCH_GPUS, SBATCH_TIMELIMIT and so on. Code, environment and runs must
       lie where the nodes see them.
hf     Each job takes its share of the searches. Code and runs travel through the private bucket
       `jobs-artifacts` of the account that is logged in (hf auth login). From the environment:
       FLAVOR of the machines (cpu-basic), TIMEOUT of a job (8h), IMAGE (python:3.11). A mounted
       bucket takes whole files and no appending, so a run comes back when its search has ended. A
       search that a job did not finish starts again from nothing.
"""
from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import hashlib
import importlib
import json
import multiprocessing
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from tqdm import tqdm

from domains.workers import cores
from runlog.errors import UserError, exit_code, one_line

ROOT = Path(__file__).resolve().parent.parent
ARRAY = 1000        # tasks of a job array: SLURM's default limit is 1,001
MODULE = "tools.sweep"


# ---------------------------------------------------------------------------------------- searches

def parse(line: str) -> tuple[str, list[str]]:
    """A line -> (name of the module, its argv). Raises UserError if the line is no search."""
    try:
        first, *argv = shlex.split(line)
    except ValueError as error:
        raise UserError(f"{line!r} is no line of a shell: {error}") from error
    module = ""
    if first == "-m" and argv:
        module = argv.pop(0)
    elif first.endswith(".py"):
        module = first.removesuffix(".py").replace("/", ".")
    if not module or not {"--out", "--resume"} & set(argv[:-1]):
        raise UserError("a search is a line `SCRIPT.py FLAGS --out DIR` or `-m MODULE FLAGS --out "
                        f"DIR`, not {line!r}")
    return module, argv


def folder(line: str) -> Path:
    """Where a search's run goes: its --out or --resume."""
    _, argv = parse(line)
    return Path(argv[argv.index("--resume" if "--resume" in argv else "--out") + 1])


def finished(run: Path) -> bool:
    return (run / "summary.json").exists()


def check_same(line: str) -> None:
    """Raises UserError if a finished run is that of another search: its numbers would pass for this
    one's."""
    run, (_, argv) = folder(line), parse(line)
    if finished(run) and (run / "config.json").exists():
        try:
            command = json.loads((run / "config.json").read_text()).get("command") or argv
            command = list(map(str, command))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{run}/config.json cannot be read ({one_line(error)}): remove "
                            f"{run}, or choose another OUT") from error
        words = plain(command)
        if any(word.split("=")[0] == "--config" for word in argv):     # its settings stand before
            words = words[-len(plain(argv)):]
        if words != plain(argv):
            raise UserError(f"{run} holds another search ({shlex.join(command)}): choose another "
                            "OUT, or remove it")


def plain(argv: list[str]) -> list[str]:
    """The words without the folder, which may have moved."""
    return [word for flag, word in zip(["", *argv], argv)
            if not {"--out", "--resume"} & {flag, word}]


def log_of(run: Path) -> Path:
    return run.with_name(run.name + ".log")


def search(line: str) -> int:
    """One search in this process, its output in DIR.log. Returns its exit code, as exit_code does;
    1 after a fault of the program."""
    module, argv = parse(line)
    sys.argv = [module.replace(".", "/") + ".py", *argv]        # as if it had been typed
    log = log_of(folder(line))
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            return exit_code(importlib.import_module(module).main, argv)
        except (Exception, SystemExit):
            traceback.print_exc()
            return 1


def share(lines: list[str], out: Path, back: Path | None) -> None:
    """What one task or job has to do, one search after the other.

    back: each run is copied there when its search has ended, and what is finished there already is
    copied from there.
    """
    back = None if back == out else back
    for line in lines:
        run = folder(line)
        if back and finished(back / run.relative_to(out)):
            shutil.copytree(back / run.relative_to(out), run, dirs_exist_ok=True)
        if finished(run):
            continue
        if search(line) == 130:
            raise KeyboardInterrupt
        print("finished:" if finished(run) else "failed:", line, flush=True)
        if back:
            copy_files([log_of(run), *filter(Path.is_file, run.rglob("*"))], out, back)


def copy_files(paths: list[Path], out: Path, back: Path) -> None:
    """Copies files below `out` to the same places below `back`."""
    for path in paths:
        target = back / path.relative_to(out)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


# ----------------------------------------------------------------------------------------- engines

def local(lines: list[str], out: Path, jobs: int | None) -> None:
    """Worker processes that keep torch loaded: to import it takes as long as a short search."""
    # Without this a terminated sweep would leave its workers waiting.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with concurrent.futures.ProcessPoolExecutor(
            jobs or cores(), initializer=signal.signal,
            initargs=(signal.SIGTERM, signal.SIG_DFL)) as pool:
        futures = [pool.submit(search, line) for line in lines]
        try:
            done = concurrent.futures.as_completed(futures)
            for _ in tqdm(done, total=len(lines), unit="search"):
                pass
        except (KeyboardInterrupt, SystemExit):
            # Otherwise they would finish what the pool has handed out.
            for process in multiprocessing.active_children():
                process.terminate()
            raise
    if any(future.exception() for future in futures):
        print("a worker process was killed (out of memory?): try fewer at a time, JOBS=..",
              file=sys.stderr)


def slurm(lines: list[str], out: Path, jobs: int | None) -> None:
    """One job array, one search a task as far as an array reaches; waits for it."""
    if not shutil.which("sbatch"):
        raise UserError("the engine slurm needs sbatch: start it on a machine that submits to "
                        "SLURM")
    name = name_of(out)
    queue = subprocess.run(["squeue", "--me", "--noheader", "--name", name], capture_output=True,
                           text=True, check=True)
    if queue.stdout.strip():
        raise UserError(f"searches of {out} are in the queue: watch them with squeue --name {name},"
                        f" end them with scancel --name {name}; when they are gone, give the same "
                        "command again")
    file, n = out / "searches.txt", min(len(lines), ARRAY)
    file.write_text("\n".join(lines) + "\n")
    task = shlex.join([sys.executable, "-m", MODULE, "--out", str(out), "--file", str(file),
                       "--parts", str(n)])
    print(f"job {name}, {n} tasks: they go on if this command is interrupted; give it again for "
          "the tables")
    (out / "slurm").mkdir(exist_ok=True)
    at_a_time = f"%{jobs}" if jobs else ""
    # The tasks start in the folder of this command, which is that of the repository.
    subprocess.run(["sbatch", "--wait", "--job-name", name,
                    "--output", str(out / "slurm" / "%A_%a.log"),
                    "--array", f"0-{n - 1}{at_a_time}",
                    "--wrap", f"{task} --part $SLURM_ARRAY_TASK_ID"])


def hf(lines: list[str], out: Path, jobs: int | None) -> None:
    """Jobs on Hugging Face, each with its share of the searches; waits for them and fetches the
    runs."""
    from huggingface_hub import HfApi, get_token
    api, name, n = HfApi(), name_of(out), min(len(lines), jobs or 4)
    token = get_token()
    if not token:
        raise UserError("the engine hf needs an account: hf auth login, or HF_TOKEN")
    if list(api.list_jobs(labels={"name": name}, status=["SCHEDULING", "RUNNING"])):
        raise UserError(f"searches of {out} are running: watch them with hf jobs ps; when they are "
                        "done, give the same command again")
    volume = upload(api, name, lines, out)

    def fetch() -> list[str]:
        """Brings the runs here; returns the searches that are not finished."""
        api.sync_bucket(f"hf://buckets/{volume.source}/{name}/runs", str(out), exclude=[".keep"])
        return [line for line in lines if not finished(folder(line))]

    if not fetch():     # an earlier command started the jobs and did not wait for them
        return
    task = shlex.join(["python", "-m", MODULE, "--out", str(out), "--file", "searches.txt",
                       "--parts", str(n), "--back", "/sweep/runs"])
    gated = any("--model" in line for line in lines)    # such models may need the account
    started = [start_job(api, name, volume, f"{task} --part {part}", token if gated else None)
               for part in range(n)]
    print(f"{n} jobs: they go on if this command is interrupted; give it again for the tables",
          *(job.url for job in started), sep="\n")
    for job in api.wait_for_job([job.id for job in started], poll_interval=10):
        if job.status.stage != "COMPLETED":
            print(f"{job.url}: {job.status.stage} {job.status.message or ''}", file=sys.stderr)
    fetch()


def upload(api, name: str, lines: list[str], out: Path):
    """Brings code and searches into the bucket; returns the volume that the jobs mount."""
    with tempfile.TemporaryDirectory() as stage:
        code, runs = Path(stage) / "code", Path(stage) / "runs"
        unwanted = shutil.ignore_patterns(".*", "__pycache__", "venv", "runs", "results")

        def left_out(folder: str, names: list[str]) -> set[str]:
            own = {name for name in names if (Path(folder) / name).resolve() == out.resolve()}
            return unwanted(folder, names) | own
        shutil.copytree(ROOT, code, ignore=left_out)
        (code / "searches.txt").write_text("\n".join(lines) + "\n")
        runs.mkdir()
        (runs / ".keep").touch()        # a bucket has no empty folders
        return api.sync_job_volume(stage, "/sweep", remote_name=name, read_only=False)


def start_job(api, name: str, volume, task: str, token: str | None):
    """One job that installs the requirements and runs a task of tools.sweep."""
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    return api.run_job(
        image=os.environ.get("IMAGE", "python:3.11"),
        flavor=os.environ.get("FLAVOR", "cpu-basic"), timeout=os.environ.get("TIMEOUT", "8h"),
        name=name, volumes=[volume], secrets={"HF_TOKEN": token} if token else None,
        env={"OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"},
        command=["bash", "-c", "cp -r /sweep/code ~/code && cd ~/code && "
                 f"pip install -q -r requirements.txt && {task}"])


ENGINES = {"local": local, "slurm": slurm, "hf": hf}


def name_of(out: Path) -> str:
    """What the jobs of one folder of runs are called: two sweeps of it must not run at the same
    time."""
    return "migrate-" + hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:8]


# -------------------------------------------------------------------------------------------- main

def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=list(ENGINES), default="local")
    parser.add_argument("--jobs", type=int, help="how many at a time")
    parser.add_argument("--out", type=Path, required=True, help="the folder that all runs are in")
    part = parser.add_argument_group("what a task of an array or a job is given")
    part.add_argument("--file", type=Path, help="the searches, instead of standard input")
    part.add_argument("--part", type=int, help="take the lines PART, PART + PARTS, ..")
    part.add_argument("--parts", type=int, help="see --part")
    part.add_argument("--back", type=Path,
                      help="copy each run to this folder when its search has ended")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Returns the exit code: 0, 1 if a search did not finish, 2 if none could start, 130."""
    args = parse_arguments(argv)
    try:
        if any(n is not None and n < 1 for n in (args.jobs, args.parts)):
            raise UserError("--jobs and --parts must be at least 1")
        text = args.file.read_text() if args.file else sys.stdin.read()
        lines = list(dict.fromkeys(filter(None, (line.strip() for line in text.splitlines()))))
        if args.part is not None:
            lines = lines[args.part::args.parts]
        for line in lines:
            check_same(line)
        folders = [folder(line).resolve() for line in lines]
        twice = next((run for run in folders if folders.count(run) > 1), None)
        if twice:
            raise UserError(f"two searches have the folder {twice}: give each one of its own")
        todo = [line for line in lines if not finished(folder(line))]
        if args.part is not None:
            share(lines, args.out, args.back)
        elif todo:
            print(f"{len(lines)} searches, {len(lines) - len(todo)} of them finished already")
            args.out.mkdir(parents=True, exist_ok=True)
            ENGINES[args.engine](todo, args.out, args.jobs)
    except (UserError, OSError, UnicodeDecodeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return report_unfinished(lines)


def report_unfinished(lines: list[str]) -> int:
    """Says which searches did not finish. Returns 1 if any did not."""
    failed = [line for line in lines if not finished(folder(line))]
    for line in failed[:10]:
        print(f"not finished (see {log_of(folder(line))}): {line}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(lines)} searches did not finish; the same command, given "
              "again, goes on", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
