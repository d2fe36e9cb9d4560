"""The surrogate of molecules: a Gaussian process that compares their fragments and properties.

The modifier `screen` ranks molecules by it (methods/screen.py). It would do with hidden states of
the policy, as for any task. But fragments and properties foretell the scores of molecules far
better (docs/results/molecules.md).
"""
from __future__ import annotations

import functools

from rdkit import Chem
from rdkit.Chem import Crippen, rdFingerprintGenerator, rdMolDescriptors

from domains.gaussian import error_left_out, with_noise, with_worst
from runlog.slow import torch

RADIUS, SIZE, COUNTED = 1, 2048, 4      # of Morgan fingerprints: a count above COUNTED is cut
FRAGMENTS = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=SIZE)
PROPERTIES = [Crippen.MolLogP, rdMolDescriptors.CalcTPSA, rdMolDescriptors.CalcExactMolWt,
              rdMolDescriptors.CalcNumHeavyAtoms, rdMolDescriptors.CalcNumRings,
              rdMolDescriptors.CalcNumAromaticRings, rdMolDescriptors.CalcNumRotatableBonds,
              rdMolDescriptors.CalcNumHBD, rdMolDescriptors.CalcNumHBA,
              rdMolDescriptors.CalcFractionCSP3]
NOISES = (0.001, 0.01, 0.1, 1.0)        # of the process to choose from
JUDGED_ON = 256         # points that a noise is judged on, at most
MOST = 2000             # points of a fit: the best half of them, and the latest of the others


class MoleculeProcess:
    """A Gaussian process on molecules, SMILES.

        k(x, y) = T(x, y) / 2 + exp(-|p_x - p_y|^2 / 2d) / 2 + noise [x is y]
        T(x, y) = sum_i min(x_i, y_i) / sum_i max(x_i, y_i)

    x_i: how often fragment i, an atom alone or with its neighbours, is in the molecule, COUNTED at
    most. p: the d PROPERTIES, standardised. T is the Tanimoto similarity. The noise is the one that
    best foretells a score that it is not told. It is chosen anew whenever the number of points has
    doubled, up to JUDGED_ON, so that a resumed search chooses the same.
    """

    def __init__(self):
        self.noise: dict[int, float] = {}           # {number of points: the noise that they chose}

    def fit(self, candidates: list[str], scores: list[float | None]) -> None:
        """candidates: in the order in which they came. scores: None for an invalid candidate, which
        counts as the worst valid one."""
        first = min(1 << len(scores).bit_length() - 1, JUDGED_ON)
        if first not in self.noise:         # by the first alone, however many are known by now
            k, y = self.stand_on(candidates[:first]), rounded(scores[:first])
            self.noise[first] = min(
                NOISES, key=lambda noise: error_left_out(k, y - y.mean(), noise))
        y = rounded(scores)
        kept = subset(y)
        y, k = y[kept], self.stand_on([candidates[i] for i in kept])            # (n,), (n, n)
        self.mean, self.deviation = y.mean(), y.std(correction=0).clamp(min=1e-9)
        self.root = torch.linalg.cholesky(with_noise(k, self.noise[first]))
        y = (y - self.mean) / self.deviation
        self.solved = torch.cholesky_solve(y[:, None], self.root)[:, 0]         # (n,): K^-1 y

    def rank(self, candidates: list[str]):
        """The expected score of each candidate, and its standard deviation, (m,) each."""
        k = self.kernel(*tables(candidates))                                    # (m, n)
        explained = torch.linalg.solve_triangular(self.root, k.T, upper=False)  # (n, m)
        variance = (1 - explained.square().sum(0)).clamp(min=0)
        return self.mean + self.deviation * (k @ self.solved), self.deviation * variance.sqrt()

    def stand_on(self, candidates: list[str]):
        """Takes these as the points that others are compared with. Returns their kernel, (n, n)."""
        fragments, properties = tables(candidates)
        self.present = fragments.any(0)         # most fragments are in none of them: not compared
        self.fragments, self.sizes = fragments[:, self.present].float(), fragments.sum(1)
        self.center = properties.mean(0)                                        # (d,)
        self.scale = properties.std(0, correction=0).clamp(min=1e-6)
        self.properties = (properties - self.center) / self.scale
        return self.kernel(fragments, properties)

    def kernel(self, fragments, properties):
        """Without the noise. (m, fragments), (m, d) -> (m, n)."""
        shared = fragments[:, self.present].float() @ self.fragments.T
        tanimoto = shared / (fragments.sum(1)[:, None] + self.sizes - shared)
        x = (properties - self.center) / self.scale
        apart = torch.cdist(x, self.properties, compute_mode="use_mm_for_euclid_dist").square()
        return (tanimoto.double() + torch.exp(-apart / (2 * x.shape[1]))) / 2


def rounded(scores: list[float | None]):
    """(n,): bits beyond those of float32 say nothing."""
    return with_worst(scores).float().double()


def tables(candidates: list[str]):
    """Whether a molecule has each fragment once, twice, .. : (m, SIZE * COUNTED) bool, so that the
    sums of minima are a product of matrices. And the properties, (m, d)."""
    counts, properties = zip(*map(described, candidates))
    fragments = torch.stack(counts)[..., None] > torch.arange(COUNTED)      # (m, SIZE, COUNTED)
    return fragments.flatten(1), torch.stack(properties)


@functools.lru_cache(20_000)
def described(smiles: str):
    """How often a molecule has each fragment, (SIZE,), and its properties, (d,)."""
    mol = Chem.MolFromSmiles(smiles)
    counts = torch.from_numpy(FRAGMENTS.GetCountFingerprintAsNumPy(mol).astype("int16"))
    return counts, torch.tensor([value(mol) for value in PROPERTIES], dtype=torch.float64)


def subset(y) -> list[int]:
    """Which points are fitted to: all, or the best and the latest of the others."""
    if len(y) <= MOST:
        return list(range(len(y)))
    order = y.argsort(descending=True, stable=True).tolist()
    return sorted(order[:MOST // 2] + sorted(order[MOST // 2:])[-MOST // 2:])
