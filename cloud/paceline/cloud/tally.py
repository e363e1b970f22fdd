"""What a verifier has done so far: counts for whoever asks it, metrics for whoever scrapes it."""

from dataclasses import replace

from paceline.cloud.metrics import VerifierMetrics
from paceline.cloud.port import Judged
from paceline.common.messages import HopDescription
from paceline.common.session import Work


class Tally:
    """Counts over all sessions.

    Args:
        metrics: kept as well.
    """

    def __init__(self, metrics: VerifierMetrics) -> None:
        self.counts = HopDescription()
        self._metrics = metrics

    def judged(self, work: Work, done: Judged) -> None:
        """A verdict on a draft was given."""
        num_judged = 0 if work.is_own or work.draft is None else len(work.draft)
        self.counts = replace(
            self.counts,
            num_judged=self.counts.num_judged + num_judged,
            num_accepted=self.counts.num_accepted + (done.num_accepted if num_judged else 0),
            num_written=self.counts.num_written + done.num_committed,
        )
        if work.is_own:
            self._metrics.filled(done.num_committed, done.step_s)
        else:
            self._metrics.judged(num_judged, done.num_accepted, done.step_s, done.queue_s)

    def stepped(self, num_sessions: int, num_tokens: int, seconds: float) -> None:
        """The engine ran one step."""
        self.counts = replace(self.counts, num_steps=self.counts.num_steps + 1)
        self._metrics.stepped(num_sessions, num_tokens, seconds)
