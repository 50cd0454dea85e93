"""The channel's parts; tests/e2e has it between processes."""

import asyncio
import time

from tests.training.worker.local_workers import RecordingChannel
from training.worker.progress_channel import Message, ProgressSender, _Mailbox


def test_a_mailbox_returns_all_messages_in_order_of_arrival_and_waits_for_the_first() -> None:
    async def run() -> list[Message]:
        mailbox = _Mailbox()
        taking = asyncio.create_task(mailbox.take())
        await asyncio.sleep(0)
        assert not taking.done()
        for step in range(3):
            await mailbox.put({"kind": "progress", "step": step})
        return await taking

    assert [message["step"] for message in asyncio.run(run())] == [0, 1, 2]


def test_a_message_says_who_sent_it_and_when() -> None:
    messages: list[Message] = []
    channel = RecordingChannel()
    channel.put_nowait = messages.append  # type: ignore[method-assign]

    ProgressSender(channel, rank=3).send("progress", step=7)  # type: ignore[arg-type]

    (message,) = messages
    assert (message["kind"], message["rank"], message["step"]) == ("progress", 3, 7)
    assert 0 <= time.time() - message["at_s"] < 60
