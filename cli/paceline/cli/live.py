"""A text as it grows on a terminal: what is verified stays, what is provisional stands dim behind it and may vanish."""

from rich.cells import cell_len
from rich.console import Console

from paceline.cli.show import TokenPrinter
from paceline.common.tokenizer import Tokenizer
from paceline.edge.request import Event, LinkEvent, ProvisionalEvent, RetractedEvent, TokensEvent

_NO_LINK = " … no link"
_TAB = 8


class LivePrinter(TokenPrinter):
    """Prints events; on anything but a terminal, verified tokens alone."""

    def __init__(self, console: Console, tokenizer: Tokenizer) -> None:
        super().__init__(console, tokenizer)
        self._tokenizer = tokenizer
        self._column = 0
        self._end = 0
        """Absolute position after the last printed token."""
        self._provisional: list[int] = []
        self._is_up = True
        self._rows_below = 0
        self._shown = ""

    def handle(self, event: Event) -> None:
        """Show what happened."""
        if not self._console.is_terminal:
            if isinstance(event, TokensEvent):
                self.show(event)
            return
        self._erase()
        match event:
            case TokensEvent():
                self.show(event)
                self._end = event.position + len(event.token_ids)
                del self._provisional[: len(event.token_ids)]
            case ProvisionalEvent():
                self._end = self._end or event.position
                del self._provisional[max(event.position - self._end, 0) :]
                self._provisional.extend(event.token_ids)
            case RetractedEvent():
                del self._provisional[max(event.position - self._end, 0) :]
            case LinkEvent():
                self._is_up = event.is_up
        self._draw()

    def close(self) -> None:
        """Take away what was never verified."""
        self._erase()

    def write(self, text: str, style: str) -> None:
        """Print text that stays, keeping count of the column it ends in."""
        super().write(text, style)
        self._column, _ = self._advance(self._column, text)

    def _draw(self) -> None:
        tail = self._tokenizer.decode(self._provisional) + ("" if self._is_up else _NO_LINK)
        text = self._fitting(tail)
        if text:
            super().write(text, "dim")
            _, self._rows_below = self._advance(self._column, text)
            self._shown = text

    def _erase(self) -> None:
        """Back to where the text that stays ends, and clear what follows."""
        if not self._shown:
            return
        up = f"\x1b[{self._rows_below}A" if self._rows_below else ""
        right = f"\x1b[{self._column}C" if self._column else ""
        self._console.file.write(f"{up}\r{right}\x1b[J")
        self._console.file.flush()
        self._shown, self._rows_below = "", 0

    def _fitting(self, text: str) -> str:
        """As much as the screen can hold: what has scrolled away cannot be erased."""
        most = max(self._console.height - 2, 1)
        while text and self._advance(self._column, text)[1] > most:
            text = text[: len(text) // 2]
        return text

    def _advance(self, column: int, text: str) -> tuple[int, int]:
        """The column after printing `text` from `column` on, and the rows it went down."""
        width, rows = self._console.width, 0
        for character in text:
            if character == "\n":
                column, rows = 0, rows + 1
                continue
            cells = _TAB - column % _TAB if character == "\t" else cell_len(character)
            if column + cells > width:
                column, rows = 0, rows + 1
            column += cells
        return column, rows
