"""The folder of a run: only its own, nobody else's files, one run at a time, and a sentence otherwise."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import output, records
from experiments.config import CheckpointConfig, EvaluationConfig, Experiment, MethodConfig, ScheduleConfig
from experiments.workdir import CONFIG, LOCK, check_workdir, claim, read_workdir

CONFIGURATION = Experiment()


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def as_a_user():
    """File permissions mean nothing to root: it becomes somebody else for a while."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield
    if root:
        os.seteuid(0)


def test_a_folder_is_made_and_claimed_by_one_run(tmp_path):
    workdir = tmp_path / "new" / "deep"
    check_workdir(workdir, CONFIGURATION)
    assert not (tmp_path / "new").exists()
    with claim(workdir, CONFIGURATION):
        assert read_workdir(workdir) == json.loads(json.dumps(dataclasses.asdict(CONFIGURATION)))
    check_workdir(workdir, CONFIGURATION)
    claim(workdir, CONFIGURATION).close()


def test_an_empty_folder_and_one_of_a_run_killed_at_once_are_free(tmp_path):
    check_workdir(tmp_path, CONFIGURATION)
    (tmp_path / LOCK).touch()
    (tmp_path / f".{CONFIG}").write_text("{")
    check_workdir(tmp_path, CONFIGURATION)
    claim(tmp_path, CONFIGURATION).close()


@pytest.mark.parametrize(
    "name", ["notes.txt", "rollouts/mine.npz", "checkpoints/1/x", ".hidden", "metrics.jsonl"]
)
def test_the_files_of_a_person_are_refused_and_not_touched(tmp_path, name):
    path = tmp_path / "w" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    before = contents(tmp_path)
    sentence = (
        rf"has {Path(name).parts[0]} and no config\.json: it is not the folder of a run.*another folder"
    )
    with pytest.raises(ValueError, match=sentence):
        check_workdir(tmp_path / "w", CONFIGURATION)
    assert contents(tmp_path) == before
    with pytest.raises(ValueError, match=sentence):
        claim(tmp_path / "w", CONFIGURATION)
    (tmp_path / "w" / LOCK).unlink()
    assert contents(tmp_path) == before


def test_another_run_is_refused_and_nothing_is_touched(tmp_path):
    claim(tmp_path, CONFIGURATION).close()
    before = contents(tmp_path)
    other = Experiment(schedule=ScheduleConfig(steps=9), method=MethodConfig(arguments={"clip": 0.3}))
    sentence = r"method.arguments.clip was left to its default and is 0.3; .*steps was 20"
    with pytest.raises(ValueError, match=sentence):
        check_workdir(tmp_path, other)
    with pytest.raises(ValueError, match=sentence):
        claim(tmp_path, other)
    assert contents(tmp_path) == before
    check_workdir(
        tmp_path,
        Experiment(
            mesh=(4, 2, 1), checkpoint=CheckpointConfig(every=3), evaluation=EvaluationConfig(batch=32)
        ),
    )


@pytest.mark.parametrize("text", ["{", "[1, 2]", "\udcff"])
def test_a_damaged_configuration_is_named(tmp_path, text):
    (tmp_path / CONFIG).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"config\.json is .*give another --workdir"):
        check_workdir(tmp_path, CONFIGURATION)


def test_folders_that_cannot_be_a_runs(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; give a folder"):
        check_workdir(tmp_path / "file", CONFIGURATION)
    with pytest.raises(ValueError, match=r"cannot be written: .* refuses it"):
        check_workdir(tmp_path / "file" / "w", CONFIGURATION)
    with pytest.raises(ValueError, match="cannot be written: /proc refuses it"):
        check_workdir(Path("/proc/w"), CONFIGURATION)


def test_what_permissions_forbid_is_a_sentence(tmp_path, as_a_user):
    closed = tmp_path / "closed"
    if os.getuid() != 0:  # root's folders are closed to others as they are
        closed.mkdir(mode=0)
    for use in (check_workdir, claim):
        with pytest.raises(ValueError, match=r"cannot be (read or )?written: .*; give another folder"):
            use(closed / "w", CONFIGURATION)
    with pytest.raises(ValueError, match=r"cannot be read or written: .*; give another folder"):
        read_workdir(closed / "w")


def test_a_configuration_that_cannot_be_read_is_a_sentence(tmp_path):
    (tmp_path / CONFIG).mkdir()
    with pytest.raises(ValueError, match=r"cannot be read or written: .*directory.*; give another folder"):
        check_workdir(tmp_path, CONFIGURATION)


def test_a_second_run_is_refused_while_the_first_lives(tmp_path):
    """A process claims the folder and is killed: as long as it lives nobody else can, and then anybody."""
    code = f"""
import sys
from pathlib import Path
from experiments.config import Experiment
from experiments.workdir import claim
lock = claim(Path({str(tmp_path / "w")!r}), Experiment())
print("claimed", flush=True)
sys.stdin.read()
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "claimed\n"
    before = contents(tmp_path)
    for use in (check_workdir, claim):
        with pytest.raises(ValueError, match=r"a run is going on in workdir .*; wait for its end"):
            use(tmp_path / "w", CONFIGURATION)
    assert contents(tmp_path) == before
    child.kill()
    child.communicate()
    check_workdir(tmp_path / "w", CONFIGURATION)
    claim(tmp_path / "w", CONFIGURATION).close()


def test_a_resumed_run_removes_its_own_later_rollouts_alone(tmp_path):
    (tmp_path / "rollouts").mkdir()
    mine = ["notes.txt", "best.npz", "9.txt", "9", "a9.npz", "٣.npy"]
    for name in [*mine, "2.npz", "4.npz", "5.tmp", "6.npz"]:
        (tmp_path / "rollouts" / name).write_text("x")
    output.close_output(output.open_output(tmp_path, 3))
    assert sorted(path.name for path in (tmp_path / "rollouts").iterdir()) == sorted([*mine, "2.npz"])


def test_a_process_that_does_not_write_leaves_nothing(tmp_path):
    silent = output.Output(tmp_path, None)
    output.write_metrics(silent, 1, {"reward": 1.0})
    output.write_lines(silent, output.TRANSCRIPTS, [{"step": 1}])
    assert output.write_rollout(silent, "rollouts", 1, None) == tmp_path / "rollouts" / "1.npz"
    output.close_output(silent)
    assert list(tmp_path.iterdir()) == [] and list(records.read(tmp_path / output.METRICS)) == []
