"""The surrogate of molecules: domains/molecule_surrogate.py."""
from __future__ import annotations

import csv
import json

import pytest
import torch
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator
from scipy.stats import spearmanr

import migrate
from domains import molecule_surrogate, objectives
from runlog.errors import UserError
from runlog.ledger import read_evaluations
from tests.support import HERE
from tools import foretell

with open(HERE / "data" / "pmo_reference.csv", newline="") as file:
    MOLECULES = sorted({smiles for row in csv.DictReader(file)
                        if (smiles := objectives.canonical(row["smiles"]))})


def fitted(smiles, scores):
    process = molecule_surrogate.MoleculeProcess()
    process.fit(smiles, scores)
    return process


def scores_of(target, smiles):
    return [value for _, value, _ in objectives.scores(target, smiles)]


def test_the_kernel_is_the_mean_of_tanimoto_and_of_properties():
    """Against RDKit's own similarity of counted fragments, where none is counted above the cut."""
    few, generator = ["CCO", "CC(N)=O", "C1CN1", "CC(C)Cl"], rdFingerprintGenerator
    process = fitted(few, [0.1, 0.2, 0.3, 0.4])
    of = generator.GetMorganGenerator(radius=molecule_surrogate.RADIUS,
                                      fpSize=molecule_surrogate.SIZE)
    prints = [of.GetCountFingerprint(Chem.MolFromSmiles(s)) for s in few]
    assert max(max(p.GetNonzeroElements().values()) for p in prints) <= molecule_surrogate.COUNTED
    p = torch.tensor([[float(f(Chem.MolFromSmiles(s))) for f in molecule_surrogate.PROPERTIES]
                      for s in few], dtype=torch.float64)
    p = (p - p.mean(0)) / p.std(0, correction=0).clamp(min=1e-6)
    found = process.kernel(*molecule_surrogate.tables(few))
    for i in range(4):
        for j in range(4):
            near = torch.exp(-(p[i] - p[j]).square().mean() / 2).item()
            expected = (DataStructs.TanimotoSimilarity(prints[i], prints[j]) + near) / 2
            assert found[i, j].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("target", ["perindopril_mpo", "zaleplon_mpo", "qed"])
def test_it_foretells_scores_that_it_was_not_told(target):
    """Catches: a rank the wrong way round, properties or fragments of another molecule."""
    scores = scores_of(target, MOLECULES)
    told, asked = MOLECULES[::2], MOLECULES[1::2]
    mean, deviation = fitted(told, scores[::2]).rank(asked)
    ranks = torch.stack([x.argsort().argsort().double()
                         for x in (mean, torch.tensor(scores[1::2]))])
    assert torch.corrcoef(ranks)[0, 1] > 0.5
    known_mean, known_deviation = fitted(told, scores[::2]).rank(told)
    assert known_deviation.mean() < deviation.mean()
    assert (known_mean - torch.tensor(scores[::2])).abs().mean() < 0.05


def test_the_deviation_is_in_the_unit_of_the_scores():
    scores = scores_of("qed", MOLECULES[:60])
    mean, deviation = fitted(MOLECULES[:40], scores[:40]).rank(MOLECULES[40:60])
    quarter = [score / 4 for score in scores[:40]]
    of_quarter = fitted(MOLECULES[:40], quarter).rank(MOLECULES[40:60])
    assert torch.allclose(of_quarter[0], mean / 4) and torch.allclose(of_quarter[1], deviation / 4)


def test_what_is_invalid_counts_as_the_worst_and_one_score_alone_is_no_error():
    scores = scores_of("qed", MOLECULES[:20])
    scores[3] = None
    worst = min(score for score in scores if score is not None)
    told = [worst if score is None else score for score in scores]
    found, expected = fitted(MOLECULES[:20], scores), fitted(MOLECULES[:20], told)
    assert torch.equal(found.rank(MOLECULES[:20])[0], expected.rank(MOLECULES[:20])[0])
    for few in ([0.5], [0.5] * 3, [None, None]):
        mean, deviation = fitted(MOLECULES[:len(few)], few).rank(MOLECULES[:9])
        assert mean.isfinite().all() and deviation.isfinite().all()


def test_a_process_does_not_depend_on_when_it_was_fitted(monkeypatch):
    """Catches: a noise that was chosen on points which a resumed search had later, or on what an
    invalid candidate counted as then."""
    monkeypatch.setattr(molecule_surrogate, "JUDGED_ON", 32)
    scores, late = scores_of("qed", MOLECULES), MOLECULES[-5:]
    scores[3] = scores[11] = scores[30] = None
    scores[60] = -5.0
    often = molecule_surrogate.MoleculeProcess()
    for n in (10, 11, 20, 40, 70):
        often.fit(MOLECULES[:n], scores[:n])
    for found, expected in zip(often.rank(late), fitted(MOLECULES[:70], scores[:70]).rank(late)):
        assert torch.equal(found, expected)


def test_foretell_compares_the_surrogates_of_a_run(tmp_path, capsys, monkeypatch):
    """Catches: a correlation with other scores than the next ones, a bare traceback, code of a
    stranger's run that is run."""
    monkeypatch.setattr(foretell, "FITTED", (15, 25, 90))
    monkeypatch.setattr(foretell, "ASKED", 25)
    migrate.run("molecule", target="qed", method="random", proposals=64, out=str(tmp_path / "run"))
    capsys.readouterr()
    foretell.main([str(tmp_path / "run")])
    lines = capsys.readouterr().out.splitlines()
    evaluations = sorted(read_evaluations(tmp_path / "run"), key=lambda e: e.index)
    for line, make in zip(lines, (None, molecule_surrogate.MoleculeProcess), strict=False):
        assert len(line.split(": ")[1].split()) == 2        # for a third there are too few
        if make:
            shown = [float(value) for value in line.split(": ")[1].split()]
            for n, value in zip((15, 25), shown):
                expected, _ = fitted([e.candidate for e in evaluations[:n]],
                                     [e.score for e in evaluations[:n]]).rank(
                                         [e.candidate for e in evaluations[n:n + 25]])
                scores = [e.score for e in evaluations[n:n + 25]]
                assert value == pytest.approx(spearmanr(expected, scores).statistic, abs=0.005)
    assert [line.split("  ")[1].split(":")[0] for line in lines] == [
        "hidden states", "the task's own"] * 2
    for wrong in ([], [str(tmp_path)]):
        with pytest.raises(UserError, match="runs/"):
            foretell.main(wrong)
    evals = tmp_path / "run" / "evals.jsonl"
    lines = evals.read_text().splitlines(keepends=True)
    for written, words in ((lines[:39], "a longer search"),
                           ([lines[0].replace(evaluations[0].candidate, "xx"), *lines[1:]],
                            "does not understand")):
        evals.write_text("".join(written))
        with pytest.raises(UserError, match=words):
            foretell.main([str(tmp_path / "run")])
    alike = [json.dumps(json.loads(line) | {"score": 0.5, "valid": True}) for line in lines]
    evals.write_text("\n".join(alike) + "\n")
    foretell.main([str(tmp_path / "run")])          # no rank, and no mean of what is none
    assert "nan" in (shown := capsys.readouterr().out) and "mean" not in shown
    evil, ran = tmp_path / "evil.py", tmp_path / "ran"
    evil.write_text(f"open({str(ran)!r}, 'w')")
    (tmp_path / "config.json").write_text(json.dumps(
        {"config": {"task": str(evil), "model": "tiny"}, "options": {}}))
    with pytest.raises(UserError, match="a task of its own"):
        foretell.main([str(tmp_path)])
    assert not ran.exists()


def test_beyond_its_limit_it_is_fitted_to_the_best_and_to_the_latest(monkeypatch):
    monkeypatch.setattr(molecule_surrogate, "MOST", 6)
    y = torch.tensor([0.1, 0.9, 0.2, 0.8, 0.3, 0.7, 0.4, 0.5])
    assert molecule_surrogate.subset(y) == [1, 3, 4, 5, 6, 7]
    assert molecule_surrogate.subset(y[:6]) == [0, 1, 2, 3, 4, 5]
