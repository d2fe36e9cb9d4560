"""Runs many searches: here in worker processes, as a SLURM job array, or as jobs on Hugging Face. run_all.sh uses it.

    python sweep.py --engine slurm --out results/runs < searches

One search a line, as it would be typed behind `python`: SCRIPT FLAGS .. --out DIR, with DIR somewhere below the --out
given here. The script is migrate.py, or any that has a main(argv) and writes DIR/summary.json when it has finished. A
finished search is left out: the same command, given again, runs what is missing. What a search prints goes to DIR.log.
Exit code 1 if any search did not finish.

--jobs: how many at a time (local: as many as cores; slurm: as many as the cluster lets; hf: 4).

slurm  One search is one task of an array. sbatch reads its settings from the environment: SBATCH_PARTITION, SBATCH_GPUS,
       SBATCH_TIMELIMIT and so on. Code, environment and runs must lie where the nodes see them.
hf     Each job takes its share of the searches. Code and runs travel through the private bucket `jobs-artifacts` of the
       account that is logged in (hf auth login). From the environment: FLAVOR of the machines (cpu-basic), TIMEOUT of
       a job (8h), IMAGE (python:3.11). A mounted bucket takes whole files and no appending, so that a run comes back
       when its search has ended: what a job did not bring to its end starts again from nothing.
"""
from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import hashlib
import importlib
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

from tasks import cores

HERE = Path(__file__).resolve().parent
ARRAY = 1000        # tasks of a job array: SLURM's default limit is 1,001


class SweepError(Exception):
    """The searches cannot be started. The command line prints it as one line."""


def folder(line: str) -> Path:
    """Where a search's run goes: its --out."""
    words = shlex.split(line)
    return Path(words[words.index("--out") + 1])


def finished(run: Path) -> bool:
    return (run / "summary.json").exists()


def log_of(run: Path) -> Path:
    return run.with_name(run.name + ".log")


def search(line: str) -> int:
    """One search in this process, its output in DIR.log. Returns its exit code: 0, 1, or 130 when it was interrupted."""
    script, *argv = sys.argv = shlex.split(line)        # as if it had been typed so
    log = log_of(folder(line))
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            sys.path.insert(0, str((HERE / script).parent))
            importlib.import_module(Path(script).stem).main(argv)
            return 0
        except KeyboardInterrupt:
            return 130
        except (Exception, SystemExit):
            traceback.print_exc()
            return 1


def share(lines: list[str], out: Path, back: Path | None) -> None:
    """What one task or job has to do, one search after the other. Each run is copied to `back` when its search has ended,
    and what is finished there already is copied from there."""
    for line in lines:
        run = folder(line)
        there = back / run.relative_to(out) if back else run
        if finished(there) and there != run:
            shutil.copytree(there, run, dirs_exist_ok=True)
        elif not finished(run):
            if search(line) == 130:
                raise KeyboardInterrupt
            print("finished:" if finished(run) else "failed:", line, flush=True)
            if there != run:
                for path in [log_of(run), *filter(Path.is_file, run.rglob("*"))]:
                    (back / path.relative_to(out)).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, back / path.relative_to(out))


# ------------------------------------------------------------------------------------------------ engines

def local(lines: list[str], out: Path, jobs: int | None) -> None:
    """Worker processes that keep torch loaded: to import it takes as long as a short search."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))     # or the workers would wait on for a parent that is gone
    with concurrent.futures.ProcessPoolExecutor(jobs or cores(), initializer=signal.signal,
                                                initargs=(signal.SIGTERM, signal.SIG_DFL)) as pool:
        futures = [pool.submit(search, line) for line in lines]
        try:
            for _ in tqdm(concurrent.futures.as_completed(futures), total=len(lines), unit="search"):
                pass
        except (KeyboardInterrupt, SystemExit):
            for process in multiprocessing.active_children():   # or they would finish what the pool has handed out
                process.terminate()
            raise
    if any(future.exception() for future in futures):
        print("a worker process was killed (out of memory?): try fewer at a time, JOBS=..", file=sys.stderr)


def slurm(lines: list[str], out: Path, jobs: int | None) -> None:
    """One job array, one search a task as far as an array reaches; waits for it."""
    if not shutil.which("sbatch"):
        raise SweepError("the engine slurm needs sbatch: start it on a machine that submits to SLURM")
    name = name_of(out)
    queue = ["squeue", "--me", "--noheader", "--name", name]
    if subprocess.run(queue, capture_output=True, text=True, check=True).stdout.strip():
        raise SweepError(f"searches of {out} are in the queue: watch them with squeue --name {name}, end them with scancel "
                         f"--name {name}; when they are gone, give the same command again")
    file, n = out / "searches.txt", min(len(lines), ARRAY)
    file.write_text("\n".join(lines) + "\n")
    task = shlex.join([sys.executable, str(HERE / "sweep.py"), "--out", str(out), "--file", str(file), "--of", str(n)])
    print(f"job {name}, {n} tasks: they go on if this command is interrupted; give it again for the tables")
    (out / "slurm").mkdir(exist_ok=True)
    subprocess.run(["sbatch", "--wait", "--job-name", name, "--output", str(out / "slurm" / "%A_%a.log"),
                    "--array", f"0-{n - 1}" + (f"%{jobs}" if jobs else ""), "--wrap", f"{task} --part $SLURM_ARRAY_TASK_ID"])


def hf(lines: list[str], out: Path, jobs: int | None) -> None:
    """Jobs on Hugging Face, each with its share of the searches; waits for them and fetches the runs."""
    from huggingface_hub import HfApi, get_token
    api, name, n = HfApi(), name_of(out), min(len(lines), jobs or 4)
    if not get_token():
        raise SweepError("the engine hf needs an account: hf auth login, or HF_TOKEN")
    if list(api.list_jobs(labels={"name": name}, status=["SCHEDULING", "RUNNING"])):
        raise SweepError(f"searches of {out} are running: watch them with hf jobs ps; when they are done, give the same "
                         "command again")
    with tempfile.TemporaryDirectory() as stage:
        code = Path(stage) / "code"
        shutil.copytree(HERE, code, ignore=shutil.ignore_patterns(".*", "__pycache__", "venv", "runs", "results", out.name))
        (code / "searches.txt").write_text("\n".join(lines) + "\n")
        (Path(stage) / "runs").mkdir()
        (Path(stage) / "runs" / ".keep").touch()        # a bucket has no empty folders
        volume = api.sync_job_volume(stage, "/sweep", remote_name=name, read_only=False)

    def fetch() -> list[str]:
        api.sync_bucket(f"hf://buckets/{volume.source}/{name}/runs", str(out), exclude=[".keep"])
        return [line for line in lines if not finished(folder(line))]

    if not fetch():     # an earlier command started the jobs and did not wait for them
        return
    task = shlex.join(["python", "sweep.py", "--out", str(out), "--file", "searches.txt", "--of", str(n), "--back", "/sweep/runs"])
    secrets = {"HF_TOKEN": get_token()} if any("--model" in line for line in lines) else None      # gated models
    started = [api.run_job(image=os.environ.get("IMAGE", "python:3.11"), flavor=os.environ.get("FLAVOR", "cpu-basic"),
                           timeout=os.environ.get("TIMEOUT", "8h"), name=name, volumes=[volume], secrets=secrets,
                           env={"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "PYTHONUNBUFFERED": "1"},
                           command=["bash", "-c", "cp -r /sweep/code ~/code && cd ~/code && pip install -q -r requirements.txt "
                                    f"&& {task} --part {part}"]) for part in range(n)]
    print(f"{n} jobs: they go on if this command is interrupted; give it again for the tables", *(j.url for j in started), sep="\n")
    for job in api.wait_for_job([job.id for job in started], poll_interval=10):
        if job.status.stage != "COMPLETED":
            print(f"{job.url}: {job.status.stage} {job.status.message or ''}", file=sys.stderr)
    fetch()


def name_of(out: Path) -> str:
    """What the jobs of one folder of runs are called: two sweeps of it must not run at the same time."""
    return "migrate-" + hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:8]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["local", "slurm", "hf"], default="local")
    parser.add_argument("--jobs", type=int, help="how many at a time")
    parser.add_argument("--out", type=Path, required=True, help="the folder that all runs are in")
    part = parser.add_argument_group("what a task of an array or a job is given")
    part.add_argument("--file", type=Path, help="the searches, instead of standard input")
    part.add_argument("--part", type=int, help="take the lines PART, PART + OF, PART + 2 OF, ..")
    part.add_argument("--of", type=int, help="see --part")
    part.add_argument("--back", type=Path, help="copy each run to this folder when its search has ended")
    args = parser.parse_args()
    lines = [line.strip() for line in (args.file.read_text() if args.file else sys.stdin.read()).splitlines()]
    lines = list(dict.fromkeys(filter(None, lines)))
    if args.part is not None:
        lines = lines[args.part::args.of]
    todo = [line for line in lines if not finished(folder(line))]
    try:
        if args.part is not None:
            share(lines, args.out, args.back)
        elif todo:
            print(f"{len(lines)} searches, {len(lines) - len(todo)} of them finished already")
            args.out.mkdir(parents=True, exist_ok=True)
            {"local": local, "slurm": slurm, "hf": hf}[args.engine](todo, args.out, args.jobs)
    except SweepError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    failed = [line for line in lines if not finished(folder(line))]
    for line in failed[:10]:
        print(f"not finished (see {log_of(folder(line))}): {line}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(lines)} searches did not finish; the same command, given again, goes on", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
