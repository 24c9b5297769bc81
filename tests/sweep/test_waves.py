from __future__ import annotations

from compress_exp.outputs.manifest import Identity, Member
from compress_exp.sweep.waves import next_wave


def member(*chain, until=None, run=None):
    run = run or "+".join(chain)
    return Member((f"run={run}",), Identity(run, f"name-{run}", chain, None, until, False, {}))


def shown(members, built=()):
    return [(task.key, task.overrides, len(task.members)) for task in next_wave(members, lambda key: key in built)]


def test_shared_baselines_come_first_then_shared_stages_then_the_runs():
    members = [member("b", "p"), member("b", "p", "q"), member("b", "d"), member("other", "p2")]
    assert shown(members) == [("b", ("run=b+p", "until=baseline"), 3)]
    assert shown(members, {"b"}) == [("p", ("run=b+p", "until=1"), 2)]
    assert shown(members, {"b", "p"}) == [(None, item.overrides, 1) for item in members]


def test_one_job_for_each_shared_artifact_of_a_level():
    members = [member(f"b{seed}", method) for seed in (0, 1) for method in ("p", "q")]
    assert [task[0] for task in shown(members)] == ["b0", "b1"]


def test_runs_that_are_the_same_share_one_job():
    same = [member("b", "p", run="x"), member("b", "p", run="x"), member("b", "p", run="x", until=1)]
    assert shown(same, {"b", "p"}) == [(None, ("run=x",), 2), (None, ("run=x",), 1)]


def test_only_what_is_wanted_of_a_chain_counts():
    assert shown([member("b", "p", until=0), member("b", "q", until=0, run="y")]) == [
        ("b", ("run=b+p", "until=baseline"), 2)
    ]
    assert shown([member("b", "s", "p", until=0, run="x"), member("c", "s", "q", until=0, run="y")]) == [
        (None, ("run=x",), 1),
        (None, ("run=y",), 1),
    ]


def test_jobs_that_nothing_is_known_of_are_launched_each():
    assert shown([Member(("a=1",)), Member(("a=2",))]) == [(None, ("a=1",), 1), (None, ("a=2",), 1)]
