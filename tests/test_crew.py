"""A crew of workers that say what the tests have them say: who may start, who is lost, and whose word still counts."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mura_trt.archives.folder import FolderSource
from mura_trt.bundle import Bundle
from mura_trt.crew import PATIENCE, STARTS, Crew, Handle, Inbox, Lost, Message
from mura_trt.errors import EnvironmentProblem, RuntimeUnavailable, UsageError
from mura_trt.places import Place
from mura_trt.runtimes import MIXED
from mura_trt.worker import Fatal, Hungry, Pulse, Ready, WorkerConfig


class Played:
    """In place of a worker: says what it is told to, and keeps what it is told."""

    def __init__(self, config: WorkerConfig, inbox: Inbox) -> None:
        self.config, self._inbox = config, inbox
        self.stopped: list[bool] = []

    def says(self, message: Message | None) -> None:
        self._inbox.put((self, message))

    def send(self, message: object) -> None:
        raise AssertionError(message)

    def last_words(self) -> str:
        return "farewell"

    def stop(self, graceful: bool) -> None:
        self.stopped.append(graceful)


class Stage:
    """A crew of played workers; each says upon its start what is next in the script of its place."""

    def __init__(
        self,
        bundle: Bundle,
        places: list[Place],
        *scripts: list[Message | None],
        device: str | None = None,
        mixed: bool = False,
    ) -> None:
        self.hired: list[list[Played]] = [[] for _ in places]
        config = WorkerConfig(bundle, FolderSource("/"), "auto", None, 0.0, Path("worker.log"))

        def hire(config: WorkerConfig, inbox: Inbox) -> Handle:
            played = Played(config, inbox)
            assert isinstance(config.place, Place)
            self.hired[places.index(config.place)].append(played)
            script = scripts[places.index(config.place)]
            if script:
                played.says(script.pop(0))
            return played

        self.crew = Crew(hire, config, places, device, mixed)


CPU, GPU = Ready("onnxruntime", "cpu", 8, ["tensorrt: no plan"]), Ready("tensorrt", "cuda", 64, [])


def test_where_runtimes_may_be_mixed_each_worker_keeps_its_own(bundle: Bundle) -> None:
    stage = Stage(bundle, [Place(gpu=0), Place(cores=frozenset({0}))], [GPU, None], [CPU], mixed=True)
    assert stage.crew.start() == Ready(MIXED, MIXED, GPU.batch, CPU.passed_over)
    assert [stage.crew.ready(number) for number in (0, 1)] == [GPU, CPU]
    stage.hired[0][0].says(None)
    assert stage.crew.receive() == (0, Lost())
    stage.crew.launch(0)
    assert (stage.hired[0][1].config.runtime, stage.hired[0][1].config.batch) == ("tensorrt", 64)


@pytest.mark.parametrize(
    ("pulse", "lost"),
    [
        (Pulse(0, "read", PATIENCE["read"] - 1), False),
        (Pulse(0, "read", PATIENCE["read"] + 1), True),
        (Pulse(0, "decode", PATIENCE["decode"] + 1), True),
        (Pulse(0, "engine", PATIENCE["decode"] + 1), False),
        (Pulse(0, "engine", PATIENCE["engine"] + 1), True),
        (Pulse(0, "idle", 1e9), False),
    ],
)
def test_patience_ends_by_what_the_worker_is_at(bundle: Bundle, pulse: Pulse, lost: bool) -> None:
    stage = Stage(bundle, [Place()], [CPU])
    stage.crew.start()
    stage.hired[0][0].says(pulse)
    _, received = stage.crew.receive()
    assert received == pulse if not lost else isinstance(received, Lost) and pulse.stage in received.hangs


TWO_CPUS = [Place(cores=frozenset({0})), Place(cores=frozenset({1}))]
TWO_GPUS = [Place(0), Place(1)]


def test_all_start_at_once_with_a_log_and_a_place_each(bundle: Bundle) -> None:
    stage = Stage(bundle, TWO_CPUS, [CPU], [CPU])
    with stage.crew as crew:
        assert crew.start() == CPU
        assert [crew.works(number) for number in (0, 1)] == [True, True]
    configs = [played.config for (played,) in stage.hired]
    assert [config.place for config in configs] == TWO_CPUS
    assert [config.log.name for config in configs] == ["worker.log", "worker-1.log"]
    assert [played.stopped for (played,) in stage.hired] == [[True], [True]]


def test_what_the_first_place_found_holds_for_all(bundle: Bundle) -> None:
    other = Ready("tensorrt_rtx", "cuda", 32, [])
    stage = Stage(bundle, TWO_GPUS, [GPU], [other, GPU])
    assert stage.crew.start() == GPU
    first, second = stage.hired
    assert [(one.config.runtime, one.config.batch) for one in first] == [("auto", None)]
    assert [(one.config.runtime, one.config.batch) for one in second] == [("auto", None), ("tensorrt", 64)]
    assert second[0].stopped == [True]
    stage.crew.launch(0)
    assert stage.hired[0][-1].config.runtime == "tensorrt"


SHARES = [Place(cores=frozenset({core}), shared=True) for core in range(3)]


def test_of_workers_that_share_a_gpu_those_that_find_no_room_are_done_without(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    no_memory = Fatal(RuntimeUnavailable("no memory on it"))
    stage = Stage(bundle, SHARES, [CPU, no_memory], [GPU, CPU], [None] * STARTS)
    with stage.crew as crew:
        assert crew.start() == GPU  # and does not bring all to the CPU
        assert [crew.works(number) for number in range(3)] == [False, True, False]
        assert [crew.ready(number) for number in range(3)] == [None, GPU, None]
    assert [len(hired) for hired in stage.hired] == [2, 1, STARTS]
    assert stage.hired[0][1].config.runtime == GPU.runtime
    told = [record.getMessage() for record in caplog.records]
    assert "the worker process on auto, CPU cores 0 cannot start: no memory on it; the run goes on without it" in told
    assert any("CPU cores 2 cannot start" in one and "died while starting" in one for one in told)


def test_where_no_worker_finds_room_on_a_shared_gpu_the_last_says_why(bundle: Bundle) -> None:
    first, second, last = (Fatal(RuntimeUnavailable(f"no memory {number}")) for number in range(3))
    stage = Stage(bundle, SHARES, [first], [second], [last])
    with pytest.raises(RuntimeUnavailable, match="no memory 2"), stage.crew as crew:
        crew.start()


def test_a_gpu_where_only_the_cpu_works_is_an_error_that_names_it(bundle: Bundle) -> None:
    stage = Stage(bundle, TWO_GPUS, [GPU], [CPU])
    with pytest.raises(EnvironmentProblem, match=r"GPU 1: onnxruntime works on the CPU.*--devices cpu.*no plan"):
        stage.crew.start()


def test_a_run_does_not_go_on_with_another_kind_of_device(bundle: Bundle) -> None:
    stage = Stage(bundle, [Place()], [CPU], device="cuda")
    with pytest.raises(EnvironmentProblem, match="began on cuda and its worker now finds only cpu"):
        stage.crew.start()


def test_an_error_at_the_beginning_is_of_its_own_kind_and_names_the_place(bundle: Bundle) -> None:
    for error, kind in ((RuntimeUnavailable("no memory"), RuntimeUnavailable), (UsageError("no memory"), UsageError)):
        stage = Stage(bundle, TWO_CPUS, [CPU], [Fatal(error)])
        with pytest.raises(kind, match="CPU cores 1: no memory"), stage.crew as crew:
            crew.start()
        assert [played.stopped for (played,) in stage.hired] == [[False], [False]]


def test_who_dies_while_starting_is_tried_again_and_then_named(bundle: Bundle) -> None:
    stage = Stage(bundle, TWO_CPUS, [CPU], [None, CPU])
    assert stage.crew.start() == CPU and len(stage.hired[1]) == 2
    stage = Stage(bundle, TWO_CPUS, [CPU], [None] * STARTS)
    with pytest.raises(EnvironmentProblem, match=r"the worker process on CPU cores 1 died while starting \(farewell\)"):
        stage.crew.start()
    assert [len(hired) for hired in stage.hired] == [1, STARTS]


def test_a_word_of_one_that_was_replaced_does_not_count(bundle: Bundle) -> None:
    stage = Stage(bundle, TWO_CPUS, [CPU], [CPU, CPU])
    crew = stage.crew
    crew.start()
    crew.stop(1, graceful=False)
    crew.launch(1)
    stage.hired[1][0].says(Hungry())
    stage.hired[1][0].says(None)
    stage.hired[0][0].says(Hungry())
    assert [crew.receive(), crew.receive()] == [(1, CPU), (0, Hungry())]
    assert len(stage.hired[1]) == 2 and crew.works(1)


def test_of_several_the_silent_one_is_noticed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mura_trt.crew.SILENCE_SECONDS", 0.3)
    stage = Stage(bundle, TWO_CPUS, [CPU], [CPU])
    began = time.monotonic()
    stage.crew.start()
    for _ in range(3):
        time.sleep(0.08)
        stage.hired[1][0].says(Pulse(0, "idle", 0.0))
        assert stage.crew.receive() == (1, Pulse(0, "idle", 0.0))
    number, message = stage.crew.receive()
    assert number == 0 and isinstance(message, Lost) and "no sign of life" in message.hangs
    assert time.monotonic() - began >= 0.3


def test_who_does_not_get_ready_is_given_up(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mura_trt.crew.START_SECONDS", 0.2)
    stage = Stage(bundle, TWO_CPUS, [CPU], [])
    with pytest.raises(EnvironmentProblem, match=r"on CPU cores 1 did not get ready within 0 s; see worker-1\.log"):
        stage.crew.start()
