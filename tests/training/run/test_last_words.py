"""Which line of a dead worker's standard error is shown."""

import pytest

from training.errors import ServiceError
from training.run.last_words import LastWords, choose_last_words

NOISE = [
    ":job_id:01000000",
    ":actor_name:RayTrainWorker",
    "Reporting training result 1: TrainingReport(checkpoint=None)",
    "[codecarbon INFO @ 00:01:41] offline tracker init",
    "",
]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (NOISE, ""),
        ([*NOISE, "cannot open /data", *NOISE], "cannot open /data"),
        (
            ["hello", "Fatal Python error: Segmentation fault", "Stack:", '  File "x.py", line 1'],
            "Fatal Python error: ",
        ),
        (["terminate called after throwing an instance of 'std::bad_alloc'", "  what():  std::bad_alloc"], "what():"),
        (["x" * 5000], "x" * 200),
    ],
)
def test_the_fatal_line_else_the_last_one_that_is_not_rays(lines: list[str], words: str) -> None:
    chosen = choose_last_words(lines)

    assert chosen.startswith(words) if words else chosen == ""
    assert len(chosen) <= 200


def test_a_death_whose_log_cannot_be_fetched_is_told_without() -> None:
    """No cluster runs here."""
    last_words = LastWords()
    last_words.observe({"kind": "started", "rank": 1, "node_id": "n", "pid": 7})

    message = last_words.observe({"kind": "worker_failed", "rank": 1, "reason": "killed", "has_died": True})

    assert message["reason"] == "killed"


@pytest.mark.parametrize("kind", ["loading", "started"])
def test_the_last_words_are_in_the_error_that_ends_the_run(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr("training.run.last_words._fetch_log", lambda node_id, pid: [f"process {pid} of {node_id}"])
    last_words = LastWords()
    last_words.observe({"kind": kind, "rank": 1, "node_id": "n", "pid": 7})

    message = last_words.observe({"kind": "worker_failed", "rank": 1, "reason": "killed", "has_died": True})

    assert message["reason"] == "killed; its last words: 'process 7 of n'"
    with (
        pytest.raises(ServiceError, match=r"^training failed; .*died: 'process 7 of n'$"),
        last_words.explain_failure(),
    ):
        raise ServiceError("training failed")


def test_an_error_without_a_death_is_left_as_it_is() -> None:
    error = ServiceError("the disk is full")

    with pytest.raises(ServiceError) as raised, LastWords().explain_failure():
        raise error
    assert raised.value is error
