"""Tests of tools.sweep: many searches, here, on SLURM and on Hugging Face."""
# It keeps transformers offline, and has to be imported before it.
from tests.support import HERE, read_json

# isort: split
import inspect
import json
import os
import shlex
import shutil
import subprocess
import sys

import huggingface_hub
import pytest

from runlog.errors import UserError
from tools import sweep

QUICK = """
import json, sys
from pathlib import Path

def main(argv):
    out = Path(argv[argv.index("--out") + 1])
    print("searching", argv)
    if "--break" in argv:
        raise ValueError("broken")
    out.mkdir(parents=True)
    (out / "summary.json").write_text(json.dumps({}))
"""


@pytest.fixture
def searches(tmp_path, monkeypatch):
    """Four lines for tools.sweep, the third of which fails; two of a module, two of a script."""
    (tmp_path / "quick.py").write_text(QUICK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    lines = []
    for n in range(4):
        program = "-m quick" if n < 2 else "quick.py"
        flags = "--break " if n == 2 else ""
        lines.append(f"{program} --n {n} {flags}--out {tmp_path / 'runs' / 'deep' / str(n)}")
    return lines


def test_run_all_writes_searches_into_any_folder(tmp_path):
    """Catches names with spaces or quotes, of which a search would see the first word."""
    out, python = tmp_path / "it's a folder", tmp_path / "python"
    python.write_text("#!/bin/sh\nif [ \"$2\" = tools.sweep ]\n"
                      f"then cat > '{tmp_path}/lines'; exit 3\n"
                      f"else exec '{sys.executable}' \"$@\"; fi\n")
    python.chmod(0o755)
    settings = os.environ | {"SMOKE": "1", "OUT": str(out), "PYTHON": str(python),
                             "MODEL": "my models/a"}
    run = subprocess.run(["bash", "run_all.sh", "wordsearch", "molecule"], cwd=HERE, env=settings)
    lines = (tmp_path / "lines").read_text().splitlines()
    assert run.returncode == 3 and len(lines) > 10
    assert all(sweep.folder(line).is_relative_to(out) for line in lines)
    assert {module for module, _ in map(sweep.parse, lines)} > {"migrate", "examples.graph_ga"}
    models = [argv[argv.index("--model") + 1] for module, argv in map(sweep.parse, lines)
              if module == "migrate"]
    assert set(models) == {"my models/a"}


def test_a_sweep_runs_what_is_missing_and_tells_what_failed(searches, tmp_path):
    def swept():
        command = [sys.executable, "-m", "tools.sweep", "--out", tmp_path / "runs", "--jobs", "2"]
        return subprocess.run(command, cwd=HERE, text=True, input="\n".join(searches),
                              capture_output=True)

    first = swept()
    runs = tmp_path / "runs" / "deep"
    assert first.returncode == 1 and "4 searches, 0 of them finished already" in first.stdout
    assert f"not finished (see {runs / '2.log'})" in first.stderr and "1 of 4" in first.stderr
    assert sorted(p.parent.name for p in runs.rglob("summary.json")) == ["0", "1", "3"]
    assert "ValueError: broken" in (runs / "2.log").read_text()
    searches[2] = searches[2].replace("--break", "")
    second = swept()
    assert second.returncode == 0 and "3 of them finished already" in second.stdout
    assert (runs / "0.log").read_text().count("searching") == 1       # and nothing ran twice


def test_a_finished_run_of_another_search_is_no_result(searches, tmp_path, capsys):
    """Catches: a smoke test, or a run of another model, whose numbers pass for this search's."""
    run = tmp_path / "runs" / "deep" / "0"
    run.mkdir(parents=True)
    (run / "summary.json").write_text("{}")
    (tmp_path / "searches").write_text(searches[0])
    argv = ["--out", str(tmp_path / "runs"), "--file", str(tmp_path / "searches")]
    command = ["--n", "0", "--out", "elsewhere"]
    for n, code in (("0", 0), ("7", 2)):
        command[1] = n
        (run / "config.json").write_text(json.dumps({"command": command}))
        assert sweep.main(argv) == code
    assert f"{run} holds another search (--n 7 --out elsewhere)" in capsys.readouterr().err


def test_real_searches_run_one_after_the_other_in_one_process(tmp_path, capsys):
    """migrate.py and a baseline, as run_all.sh writes them. Catches: a search that leaves something
    behind in the process, a line that means another module, output that is lost."""
    run = tmp_path / "runs"
    lines = [f"migrate.py --task wordsearch --preset tiny --proposals 20 --resume {run / 'a'}",
             f"-m examples.yardsticks ridge --target mob --budget 20 --out {run / 'b'}",
             f"migrate.py --task wordsearch --preset tiny --proposals 20 --out {run / 'c'}"]
    (tmp_path / "searches").write_text("\n".join(lines))
    argv = ["--out", str(run), "--file", str(tmp_path / "searches"), "--part", "0", "--parts", "1"]
    assert sweep.main(argv) == 0
    a, b, c = (read_json(run / name / "summary.json") for name in "abc")
    assert a["best"] == c["best"] and a["proposals"] == 20 and b["method"] == "ridge"
    assert "run:" in (run / "a.log").read_text() and "mob" in (run / "b.log").read_text()
    assert capsys.readouterr().out.count("finished:") == 3


def test_a_wrong_setting_is_one_line_in_the_log(tmp_path):
    """Catches: a traceback where the command itself prints one line and the way out."""
    line = f"migrate.py --task molecule --target no_such --out {tmp_path / 'runs' / 'a'}"
    assert sweep.search(line) == 2
    log = (tmp_path / "runs" / "a.log").read_text()
    assert log.startswith("error: ") and log.count("\n") == 1 and "qed" in log


@pytest.mark.parametrize("line", ["ls --out x", "-m quick", "migrate.py", "-m --out x",
                                  "migrate.py --out"])
def test_a_line_that_is_no_search_is_told_before_anything_starts(line, tmp_path, capsys):
    (tmp_path / "searches").write_text(line + "\n")
    argv = ["--out", str(tmp_path), "--file", str(tmp_path / "searches")]
    assert sweep.main(argv) == 2
    assert "a search is a line" in capsys.readouterr().err


def test_slurm_gets_one_array_whose_tasks_cover_the_searches(searches, tmp_path, monkeypatch):
    """With programs that stand in for SLURM's: what is submitted is run, task by task."""
    (tmp_path / "bin").mkdir()
    for name, code in (("squeue", "cat queue"), ("sbatch", "printf '%s\\n' \"$@\" > submitted")):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\ncd {tmp_path}\n{code}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "queue").write_text("12_3 all migrate-1 me PD\n")
    (tmp_path / "runs").mkdir()
    with pytest.raises(UserError, match="are in the queue"):    # never twice into the same folders
        sweep.slurm(searches, tmp_path / "runs", None)
    (tmp_path / "queue").write_text("")
    sweep.slurm(searches, tmp_path / "runs", 2)
    submitted = (tmp_path / "submitted").read_text().splitlines()
    assert "--wait" in submitted and submitted[submitted.index("--array") + 1] == "0-3%2"
    task = submitted[submitted.index("--wrap") + 1]
    for number in range(4):
        words = shlex.split(task.replace("$SLURM_ARRAY_TASK_ID", str(number)))
        assert words[:3] == [sys.executable, "-m", "tools.sweep"]
        assert sweep.main(words[3:]) == (number == 2)
    assert len(list((tmp_path / "runs").rglob("summary.json"))) == 3


class FakeHub:
    """Keeps the bucket in a folder and runs each job's command on the spot."""

    def __init__(self, tmp_path):
        self.bucket, self.tmp_path, self.jobs = tmp_path / "hub", tmp_path, []
        self.real_run_job = huggingface_hub.HfApi.run_job

    def sync_job_volume(self, source, mount_path, *, remote_name, read_only):
        assert not read_only and mount_path == "/sweep"
        shutil.copytree(source, self.bucket / remote_name, dirs_exist_ok=True)
        return huggingface_hub.Volume(type="bucket", source="me/bucket", mount_path=mount_path,
                                      path=remote_name)

    def run_job(self, **spec):
        inspect.signature(self.real_run_job).bind(self, **spec)
        json.dumps(huggingface_hub._jobs_api._create_job_spec(**spec))
        home = self.tmp_path / f"home{len(self.jobs)}"
        home.mkdir()
        self.jobs.append(huggingface_hub.JobInfo(
            id=str(len(self.jobs)), owner=dict(id="1", name="me", type="user"),
            status=dict(stage="ERROR")))
        # The container sees no folder of this machine: its own folder of runs stands in.
        here, there = str(self.tmp_path / "runs"), str(self.tmp_path / "there")
        listed = self.bucket / spec["name"] / "code" / "searches.txt"
        listed.write_text(listed.read_text().replace(here, there))
        mounted = f"{self.bucket / spec['volumes'][0].path}/"
        command = [word.replace("/sweep/", mounted).replace("pip install", "echo")
                   .replace(here, there) for word in spec["command"]]
        subprocess.run(command, env={**os.environ, "HOME": str(home)}, stdout=subprocess.DEVNULL)
        return self.jobs[-1]

    def list_jobs(self, **which):
        return []

    def wait_for_job(self, ids, poll_interval):
        return self.jobs

    def sync_bucket(self, source, dest, exclude):
        folder = self.bucket / source.removeprefix("hf://buckets/me/bucket/")
        shutil.copytree(folder, dest, dirs_exist_ok=True)


def test_hugging_face_jobs_bring_their_runs_back(searches, tmp_path, monkeypatch):
    """Against a stand-in for the Hub. Not tested: the real one."""
    hub = FakeHub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_test")
    (tmp_path / "runs").mkdir()
    sweep.hf(searches, tmp_path / "runs", 2)
    assert len(hub.jobs) == 2
    finished = sorted(p.parent.name for p in (tmp_path / "runs").rglob("summary.json"))
    assert finished == ["0", "1", "3"]
    assert "broken" in (tmp_path / "runs" / "deep" / "2.log").read_text()


def test_jobs_get_the_code_without_the_runs(searches, tmp_path, monkeypatch):
    """Catches a folder of the code that is left out because the runs' folder has its name."""
    monkeypatch.setattr(sweep, "ROOT", tmp_path / "code")
    for name in ("tiny/arc/config.json", "mine/arc/a/summary.json", "venv/x", ".git/x",
                 "migrate.py"):
        (tmp_path / "code" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "code" / name).write_text("{}")
    sweep.upload(FakeHub(tmp_path), "job", searches, tmp_path / "code" / "mine" / "arc")
    sent = tmp_path / "hub" / "job"
    assert sorted(str(p.relative_to(sent)) for p in sent.rglob("*") if p.is_file()) == [
        "code/migrate.py", "code/searches.txt", "code/tiny/arc/config.json", "runs/.keep"]
    assert (sent / "code" / "searches.txt").read_text().splitlines() == searches


def test_two_searches_in_one_folder_are_told_before_anything_starts(searches, tmp_path, capsys):
    """Catches: the second one, whose result is that of the first."""
    (tmp_path / "searches").write_text(f"{searches[0]}\n{searches[0].replace('--n 0', '--n 9')}\n")
    argv = ["--out", str(tmp_path / "runs"), "--file", str(tmp_path / "searches")]
    assert sweep.main(argv) == 2
    assert "two searches have the folder" in capsys.readouterr().err
    assert not (tmp_path / "runs" / "deep" / "0").exists()
