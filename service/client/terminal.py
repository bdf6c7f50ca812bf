"""Show an answer on the terminal: streaming text, and a progress bar for each image."""

from __future__ import annotations

from collections import defaultdict

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from service.client.stream import EventDocument, split_choice
from service.messages.event import TERMINAL_EVENTS


class TerminalView:
    """Prints the events of one request."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._in_text = False
        self._waiting: defaultdict[int, list[EventDocument]] = defaultdict(list)

    def show(self, event: EventDocument) -> None:
        """Show one event. If there are several answers, each is shown when it is complete."""
        choice, event = split_choice(event)
        if choice is None:
            self._show(event)
            return
        self._waiting[choice].append(event)
        if event["type"] in TERMINAL_EVENTS:
            self._console.print(f"[bold]answer {choice + 1}[/bold]", highlight=False)
            for one in self._waiting.pop(choice):
                self._show(one)

    def _show(self, event: EventDocument) -> None:
        kind = event["type"]
        if kind == "text.delta":
            self._in_text = True
            self._console.print(
                event["text"], end="", markup=False, highlight=False, soft_wrap=True
            )
        elif kind == "part.start" and event["kind"] == "image":
            self._start_image(event["index"])
        elif kind == "image.progress" and self._progress is not None:
            task = self._progress.task_ids[0]
            self._progress.update(task, completed=event["step"], total=event["total"])
        elif kind == "image.done":
            self._stop_image()
            size = f"{event['width']}x{event['height']}"
            self._console.print(f"[dim]   image {size}, seed {event['seed']}[/dim]")
        elif kind.startswith("response.") and kind not in ("response.created", "response.queued"):
            self._end(event)

    def _end_text(self) -> None:
        if self._in_text:
            self._console.print()
            self._in_text = False

    def _start_image(self, index: int) -> None:
        self._end_text()
        columns = (
            TextColumn("   generating"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=self._console, refresh_per_second=8)
        self._progress.add_task(str(index), total=None)
        self._progress.start()

    def _stop_image(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _end(self, event: EventDocument) -> None:
        self._stop_image()
        self._end_text()
        name = event["type"].removeprefix("response.")
        if name == "failed":
            self._console.print(f"[red]failed: {event['error']['message']}[/red]", highlight=False)
        elif name != "completed":
            reason = event.get("reason")
            self._console.print(f"[dim]({name}{f': {reason}' if reason else ''})[/dim]")
