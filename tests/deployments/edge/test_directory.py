"""The directory: who takes requests, and what the edges have to bring about; called without Ray."""

import asyncio
import threading
import time
from pathlib import Path

import pytest
import trustme

from deployments.edge import directory as directory_module
from deployments.edge.directory import Directory
from deployments.edge.state import Member, Route
from deployments.scaling.report import ReplicaReport
from deployments.settings import Limits
from deployments.specs.model_deployment import ModelDeployment, ModelEndpoint
from deployments.state.key_store import KeyStore
from deployments.state.store import DeploymentStore
from tests.deployments.callers import add_key, digest
from tests.deployments.edge.local_directory import run_directory, run_edges, wait_for_state
from training.errors import ServiceError

pytestmark = pytest.mark.anyio
ROUTE = Route("flowers", 30.0)
FIRST, SECOND = (Member(f"replica-{number}", ROUTE, f"127.0.0.1:{number}") for number in (1, 2))


async def test_joining_returns_when_every_edge_sends_requests(directory: Directory) -> None:
    async with run_edges(directory, 0.0, 0.3) as (fast, slow):
        await directory.join(FIRST)
        assert fast.members == slow.members == (FIRST,)

        await directory.join(SECOND)
        assert fast.members == slow.members == (FIRST, SECOND)
        assert await directory.list_members() == [FIRST, SECOND]


async def test_leaving_returns_when_no_edge_sends_requests_any_more(directory: Directory) -> None:
    async with run_edges(directory, 0.0, 0.3) as (fast, slow):
        await asyncio.gather(directory.join(FIRST), directory.join(SECOND))

        await directory.leave(FIRST.id)

        assert fast.members == slow.members == (SECOND,)


async def test_without_an_edge_nobody_waits(directory: Directory) -> None:
    started_s = time.monotonic()
    await directory.join(FIRST)
    await directory.leave(FIRST.id)
    await directory.leave("unknown")

    assert time.monotonic() - started_s < 0.5


async def test_an_edge_that_is_stuck_holds_nobody_up_for_long(directory: Directory) -> None:
    async with run_edges(directory, 0.0, 0.0) as (edge, stuck):
        stuck.vanish()
        started_s = time.monotonic()

        await directory.join(FIRST)

        assert 0.5 < time.monotonic() - started_s < 2
        assert edge.members == (FIRST,)


async def test_an_edge_that_has_vanished_is_forgotten(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_module, "EDGE_LEASE_S", 0.6)
    async with run_edges(directory, 0.0, 0.0) as (edge, gone):
        gone.vanish()
        await asyncio.sleep(1)
        started_s = time.monotonic()

        await directory.join(FIRST)

        assert time.monotonic() - started_s < 0.5
        assert edge.members == (FIRST,)


async def test_an_edge_that_vanishes_while_it_asks_stops_no_one_else(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "EDGE_LEASE_S", 0.1)
    async with directory._changed:
        asking = asyncio.ensure_future(directory.watch("gone", 0))
        await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await asyncio.sleep(0.3)

    _, key = add_key(directory._settings, "tester")

    async with asyncio.timeout(3):
        while digest(key) not in (state := await directory.watch("edge", 0)).keys:
            await asyncio.sleep(0.02)
    assert set(state.keys) == {digest(key)}
    assert "gone" not in await directory.list_edges()


async def test_a_member_that_does_not_renew_is_removed(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_module, "LEASE_S", 0.5)
    async with run_edges(directory, 0.0) as (edge,):
        await directory.join(FIRST)
        await directory.join(SECOND)
        for _ in range(10):
            await directory.renew(SECOND)
            await asyncio.sleep(0.1)

        assert edge.members == (SECOND,)


async def test_a_directory_that_was_stopped_forgets_no_member(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "LEASE_S", 0.4)
    monkeypatch.setattr(directory_module, "MAX_STALL_S", 0.2)
    async with run_edges(directory, 0.0) as (edge,):
        await directory.join(FIRST)
        time.sleep(0.6)  # its loop, too
        await asyncio.sleep(0.1)
        assert edge.members == (FIRST,)

        # From here on silence counts.
        await wait_for_state(edge, lambda state: not state.members)


async def test_the_last_report_of_each_member_is_listed_and_goes_with_it(directory: Directory) -> None:
    reports = [ReplicaReport(float(count), count, {200: count}, ()) for count in range(3)]
    async with run_edges(directory, 0.0):
        for member in (FIRST, SECOND):
            await directory.join(member)
        assert await directory.list_reports() == []
        await directory.renew(FIRST, reports[0])
        await directory.renew(SECOND, reports[1])
        await directory.renew(FIRST, reports[2])
        assert await directory.list_reports() == [(FIRST, reports[2]), (SECOND, reports[1])]
        await directory.leave(SECOND.id)
        assert await directory.list_reports() == [(FIRST, reports[2])]


async def test_a_member_that_is_not_known_joins_when_it_renews(directory: Directory) -> None:
    async with run_edges(directory, 0.0) as (edge,):
        await directory.renew(FIRST)
        assert (await wait_for_state(edge, lambda state: state.members)).members == (FIRST,)

        # At another address, it is another one.
        moved = Member(FIRST.id, ROUTE, "127.0.0.1:9")
        await directory.renew(moved)
        await wait_for_state(edge, lambda state: state.members == (moved,))


async def test_revisions_increase_with_each_change_and_in_each_life(home: Path) -> None:
    async with run_directory() as directory, run_edges(directory, 0.0) as (edge,):
        await directory.join(FIRST)
        await directory.renew(FIRST)
        await directory.join(FIRST)
        await directory.leave(FIRST.id)
        revisions = [state.revision for state in edge.states]
    async with run_directory() as directory:
        later = (await directory.watch("edge", 0)).revision

    assert revisions == sorted(set(revisions))
    assert later > revisions[-1]


async def test_serves_controller_is_started_anew_where_the_clock_was_set_back(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restarts: list[str] = []
    may_go_on = threading.Event()

    def restart() -> None:
        restarts.append("controller")
        if len(restarts) == 1:
            # Ray waits for its GCS.
            assert may_go_on.wait(10)
            raise ServiceError("it does not answer")

    monkeypatch.setattr(directory_module, "restart_serve_controller", restart)
    monkeypatch.setattr(directory_module, "CONTROL_INTERVAL_S", 0.05)
    async with run_directory() as directory:
        # The clock of before is read first.
        await asyncio.sleep(0.05)
        read = time.time
        monkeypatch.setattr(time, "time", lambda: read() - 3600)
        await asyncio.sleep(0.2)
        # Neither members nor keys wait for it.
        await directory.join(FIRST)
        _, key = add_key(directory._settings, "tester")
        async with asyncio.timeout(3):
            while digest(key) not in (await directory.watch("edge", 0)).keys:
                await asyncio.sleep(0.02)
        assert restarts == ["controller"]
        may_go_on.set()
        await asyncio.sleep(0.5)
    # Nothing else would find that it has still to be done, and once it is, it is done once.
    assert restarts == ["controller"] * 2


async def test_a_watch_without_a_change_returns_what_stands(directory: Directory) -> None:
    state = await directory.watch("edge", 0)
    started_s = time.monotonic()

    again = await directory.watch("edge", state.revision)

    assert again == state
    assert 0.2 < time.monotonic() - started_s < 1
    # What is of another life of the directory is answered at once.
    assert await directory.watch("edge", state.revision + 10**15) == state


async def test_the_state_is_complete_once_every_member_has_had_time_to_renew(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "RENEW_INTERVAL_S", 0.2)
    async with run_edges(directory, 0.0) as (edge,):
        assert not edge.states[0].is_complete
        await wait_for_state(edge, lambda state: state.is_complete)

        assert await directory.get_secret() == edge.states[-1].secret == "of the edge"


async def test_deployments_are_routes_with_their_own_limits(directory: Directory) -> None:
    store = DeploymentStore.open(directory._settings)
    limits = Limits(request_timeout_s=7.0, max_body_bytes=2000)
    endpoint = ModelEndpoint(name="flowers", version=1, digest="d", uri="file:///b", limits=limits)
    async with run_edges(directory, 0.0) as (edge,):
        store.put_record(ModelDeployment(endpoint=endpoint))
        state = await wait_for_state(edge, lambda state: state.routes)
        assert state.routes == (Route("flowers", 7.0),)

        store.delete_record("flowers")
        await wait_for_state(edge, lambda state: not state.routes)


class CertificateFiles:
    """A certificate and its key in two files, as whoever renews them writes them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cert, self.key = folder / "cert.pem", folder / "key.pem"
        self._ca = trustme.CA()
        monkeypatch.setenv("SHOAL_TLS_CERT", str(self.cert))
        monkeypatch.setenv("SHOAL_TLS_KEY", str(self.key))

    def issue(self) -> tuple[str, str]:
        issued = self._ca.issue_cert("localhost")
        return issued.cert_chain_pems[0].bytes().decode(), issued.private_key_pem.bytes().decode()


async def test_a_renewed_certificate_is_taken_once_its_key_fits(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = CertificateFiles(home, monkeypatch)
    (cert, key), (new_cert, new_key) = files.issue(), files.issue()
    files.cert.write_text(cert)
    files.key.write_text(key)
    async with run_directory() as directory, run_edges(directory, 0.0) as (edge,):
        assert edge.states[-1].certificate == cert + key

        files.cert.write_text(new_cert)
        key_id, _ = add_key(directory._settings, "tester")
        # Keys do not wait for it.
        state = await wait_for_state(edge, lambda state: state.keys)
        await asyncio.sleep(0.1)
        assert state.certificate == edge.states[-1].certificate == cert + key
        files.key.write_text(new_key)
        await wait_for_state(edge, lambda state: state.certificate == new_cert + new_key)

        files.key.unlink()
        KeyStore.open(directory._settings).revoke_key(key_id)
        state = await wait_for_state(edge, lambda state: not state.keys)
        assert state.certificate == new_cert + new_key


async def test_without_a_certificate_that_fits_there_is_no_plain_http_instead(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = CertificateFiles(home, monkeypatch)
    files.cert.write_text(files.issue()[0])
    files.key.write_text(files.issue()[1])

    with pytest.raises(OSError, match="KEY_VALUES_MISMATCH"):
        Directory()
