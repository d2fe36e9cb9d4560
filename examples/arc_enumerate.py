"""What solves ARC tasks without a language model: a yardstick, on the same tasks, the same scores and the same counts.

    python examples/arc_enumerate.py --target 3c9b0459 --budget 1024 --out results/runs/arc/yardsticks/enumerate/3c9b0459-0

Programs of the generator that the bundled policy learned from (tiny/arc_programs.py), all of one operation, then of two;
among equally long ones in random order, by the seed. Only colours that stand in the task's training outputs or inputs are
put in, so the yardstick looks at the grids as well, if not for long.
"""
import argparse
import itertools
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tiny")]
import arc_programs  # noqa: E402
import tasks  # noqa: E402


def programs(task: tasks.Arc, rng: random.Random) -> Iterator[str]:
    """Every program of one operation, then of two, never the same text twice; without end for all practical counts."""
    seen = {cell for pair in task.train for grid in pair for row in grid for cell in row}
    steps = [step for step in arc_programs.all_steps() if seen.issuperset(step[1])]
    rng.shuffle(steps)
    yield from (arc_programs.text([step]) for step in steps)
    pairs = list(itertools.product(range(len(steps)), repeat=2))
    rng.shuffle(pairs)
    yield from (arc_programs.text([steps[i], steps[j]]) for i, j in pairs)


def search(task: tasks.Arc, seed: int, budget: int, after_solved: int, batch: int = 16) -> tuple[dict, list[dict]]:
    """Scores program after program, like a search; returns a summary and the evaluations as report.py reads them."""
    stream, lines, scored, solved_at, started = programs(task, random.Random(f"{task.target} {seed}")), [], [], None, time.time()
    while len(lines) < budget and (solved_at is None or len(lines) < solved_at + after_solved):
        chosen = list(itertools.islice(stream, min(batch, budget - len(lines))))
        scores = dict(task.score(chosen))
        for program in chosen:
            score = scores[program]
            lines.append({"index": len(lines), "step": 1 + len(lines) // batch, "proposal": len(lines) + 1, "origin": "on-policy",
                          "parents": [], "candidate": program, "score": score.value, "valid": score.valid, "tokens": None,
                          "info": score.info})
            scored.append((program, score))
        if solved_at is None and any(task.solved(scores[p]) for p in chosen):
            solved_at = len(lines)
    best = max((line for line in lines if line["valid"]), key=lambda line: (line["score"], -line["index"]))
    return {"task": "arc", "target": task.target, "seed": seed, "method": "enumerate", "preset": "yardstick",
            "best_score": best["score"], "best": best["candidate"], "solved": solved_at is not None,
            "best_at_proposal": best["proposal"], "evaluations": len(lines), "proposals": len(lines), "repeats": 0,
            "invalid": sum(not line["valid"] for line in lines), "steps": lines[-1]["step"], "warm_start": 0,
            "seconds": round(time.time() - started, 2), **task.conclude(scored)}, lines


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default=tasks.Arc.target, help="task id")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", type=int, default=1024, help="programs")
    parser.add_argument("--after-solved", type=int, default=32)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; left alone if it is finished")
    args = parser.parse_args(argv)
    if (args.out / "summary.json").exists():
        return
    summary, lines = search(tasks.Arc(target=args.target), args.seed, args.budget, args.after_solved)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "evals.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (args.out / "config.json").write_text(json.dumps({"config": {"proposals": args.budget, "budget": None},
                                                      "options": {"target": args.target, "arc_file": ""}}))
    (args.out / "summary.json").write_text(json.dumps(summary, indent=1))
    print(f"{args.target}: {'solved' if summary['solved'] else 'not solved'}, best score {summary['best_score']:.4f}, "
          f"{summary['evaluations']} programs, {summary['seconds']:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
