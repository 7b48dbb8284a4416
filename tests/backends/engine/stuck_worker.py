"""A worker that goes wrong after its model is loaded: `python stuck_worker.py MODE`, started by `EngineProcess`.

`deadlock`: the engine's thread waits for ever, and the pulses go on. `idle`: it reports that it has nothing to do, and
answers nothing. `held`: as `deadlock`, and a child of its own keeps its output open when it is killed. `begun`: as
`deadlock`, after the first token. `slow`: it computes one layer after another and never ends a step. `healthy`: it
answers.
"""

import subprocess
import sys
import threading
import time

from hybrid_llm.backends.node import ipc
from hybrid_llm.backends.node.engine import EngineInfo, EngineLoad, EngineOutput, EngineRequest
from hybrid_llm.backends.node.liveness import Pulse
from hybrid_llm.backends.node.pipes import Outbox
from hybrid_llm.core.generation import FinishReason

MODE = sys.argv[1]
INFO = EngineInfo(engine="fake", model="m", architecture="a", vocab_size=256, context_window=256, slots=4)


class Worker:
    def __init__(self):
        self.outbox = Outbox()
        self.asked = False
        self.beats = 0

    def pulses(self):
        while True:
            self.beats += MODE in ("slow", "healthy")
            self.outbox.send(Pulse(self.beats, busy=self.asked and MODE != "idle"))
            time.sleep(0.2)

    def run(self):
        self.outbox.send(ipc.Ready(INFO))
        threading.Thread(target=self.pulses, daemon=True).start()
        with open(0, "rb", closefd=False) as commands:
            while header := commands.read(ipc.HEADER.size):
                message = ipc.decode(commands.read(ipc.HEADER.unpack(header)[0]))
                if isinstance(message, EngineRequest):
                    self.asked = True
                    if MODE in ("healthy", "begun"):
                        self.answer(message.request_id)

    def answer(self, request_id):
        reason = FinishReason.STOP if MODE == "healthy" else None
        output = EngineOutput(request_id=request_id, token_ids=(7,), finish_reason=reason)
        self.outbox.send(ipc.Step((output,), EngineLoad()))


if MODE == "held":
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(40)"], start_new_session=True)
Worker().run()
