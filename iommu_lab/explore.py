"""The explorer: choose a kernel, call its verbs, and see at once which DMA gets through.

Controls call a :class:`~iommu_lab.lab.Lab` and show :func:`~iommu_lab.picture.describe`; no rule
about IOMMUs lives here. Whatever a kernel answers, a refusal, a crash, "not in this release", is a
sentence beside the picture and a step of the story like any other.

Going back and then on drops the steps that were ahead, as an editor's undo does.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from html import escape
from itertools import count
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets

from . import svg
from .drivers import driver as find_driver
from .drivers import driver_names
from .errors import KernelCrash, NotInRelease
from .lab import Lab, Step
from .layout import GAP, WIDTH, lay_out
from .machine import Machine
from .picture import Picture, amount, describe, event_line
from .releases import releases
from .scenario import LARGEST, NotAScenario, Scenario

__all__ = ["Explorer"]

# The mail's own example: a kernel driver has mapped a buffer, and nobody has attached anything yet.
FIRST = Scenario(
    "6.1", "s390", steps=(Step("dma_map", ("dev0", 0x8000_0000, 0x1000, "bidirectional")),)
)
SIZES = (0x1000, 0x1_0000, 0x20_0000, 0x4000_0000)
OWNER = "vfio"
ONE, LAYOUT, OWN = "one device", "a PC's eight devices", "the file's machine"

REFUSED = object()

_numbers = count(1)


class Usable(anywidget.AnyWidget):
    """Invisible. Gives the controls beside it names and keys; see usable.js."""

    _esm = Path(__file__).with_name("usable.js")


class Explorer(widgets.VBox):  # type: ignore[misc]
    """A lab to play with: verbs as buttons, their effect as a picture and as a sentence.

    ``Explorer(scenario)`` starts there, ``explorer.scenario`` is what is on screen now, and
    ``explorer.lab`` the lab of this moment. Raises NotAScenario when the scenario's steps are no
    calls.
    """

    def __init__(self, scenario: Scenario | None = None) -> None:
        self._quiet = False
        self._prefix = f"iommu{next(_numbers)}h"
        self._make_controls()
        super().__init__(self._arranged())
        self.play(scenario or FIRST)

    # -- what is on screen ----------------------------------------------------------------------

    @property
    def lab(self) -> Lab:
        """The lab at the step that is looked at."""
        return self._story.at(self._at)

    @property
    def scenario(self) -> Scenario:
        """What is on screen, to be saved, sent or opened again."""
        return replace(self._kernel, steps=self._story.steps, at=self._at)

    @property
    def picture(self) -> Picture:
        """What is drawn, as values."""
        who = self.who.value
        return describe(
            self._story,
            at=self._at,
            beside=self._kernel.compare,
            device=who if isinstance(who, str) else self.lab.machine.groups[who][0].name,
            window=self._kernel.window,
        )

    def play(self, scenario: Scenario) -> None:
        """Put a scenario on screen. Raises NotAScenario and changes nothing when it can't be."""
        story = replace(scenario, at=None).lab()
        self._kernel = scenario
        self._story = story
        self._at = len(scenario.steps) if scenario.at is None else scenario.at
        with self._silence():
            self.release.value = scenario.release
            self.driver.value = story.driver.name
            self.beside.value = scenario.compare or ""
            self._show_machine()
            self._show_addresses()
        self._redraw()

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The live panel, and a still picture for readers without a kernel."""
        from .figures import of

        bundle: dict[str, Any] = super()._repr_mimebundle_(**kwargs)
        return {**of(self.picture)._repr_mimebundle_(), **bundle}

    # -- controls -------------------------------------------------------------------------------

    def _make_controls(self) -> None:
        self.release = _choice("Under Linux", releases(), "14em")
        self.driver = _choice("with the driver", list(driver_names()), "20em")
        self.machine = _choice("on", [ONE, LAYOUT], "15em")
        self.beside = _choice("beside", [("no other", ""), *((r, r) for r in releases())], "11em")
        self.who = _choice("Take", [("dev0", "dev0")], "13em")
        self.domain = _choice("and", [("a new domain", "")], "12em")
        self.iova = _field("IOVA", "12.5em")
        self.paddr = _field("to memory", "14.5em")
        self.size = _choice("for", [(amount(size), size) for size in SIZES], "7em")
        self.rights = _choice("as", ["rw", "r", "w"], "5.5em")
        self.step = widgets.IntSlider(description="step", min=0, max=0, readout=False)
        self.step.style.description_width = "initial"
        self.step.layout.width = "16em"
        self.shown = widgets.HTML()
        self.says = widgets.HTML()
        self.says.add_class("iommu-says")
        self.events = widgets.HTML()
        self.text = widgets.Textarea(
            description="scenario", layout=widgets.Layout(width="auto", height="14em")
        )
        self.text.style.description_width = "initial"
        self.upload = widgets.FileUpload(description="Open a file", accept=".toml", multiple=False)
        self.link = widgets.HTML()
        self.as_file = widgets.ToggleButton(description="as a file", layout=_narrow())
        self.buttons = {
            name: _button(name, press)
            for name, press in (
                ("attach", self._attach),
                ("detach", self._detach),
                ("claim", lambda: self._call("claim_dma_owner", self._group(), OWNER)),
                ("release", lambda: self._call("release_dma_owner", self._group())),
                ("bind", lambda: self._call("bind", self._device(), "driver")),
                ("bind vfio-pci", lambda: self._call("bind", self._device(), "vfio-pci")),
                ("unbind", lambda: self._call("unbind", self._device())),
                ("map", self._map),
                ("unmap", self._unmap),
                ("dma_map", self._dma_map),
                ("dma_unmap", self._dma_unmap),
                ("back", lambda: self._go(self._at - 1)),
                ("forward", lambda: self._go(self._at + 1)),
                ("start over", self._start_over),
                ("10 ms pass", lambda: self._call("advance", 10.0)),
                ("Open this text", self._open_text),
            )
        }
        for control, changed in (
            (self.release, self._choose_release),
            (self.driver, self._choose_driver),
            (self.machine, self._choose_machine),
            (self.beside, self._choose_beside),
            (self.who, self._redraw),
            (self.step, lambda: self._go(self.step.value)),
            (self.as_file, self._redraw),
            (self.upload, self._open_upload),
        ):
            control.observe(self._when_heard(changed), names="value")

    def _arranged(self) -> list[widgets.Widget]:
        button = self.buttons
        self.file_box = widgets.VBox(
            [self.text, _row(button["Open this text"], self.upload, self.link)],
            layout=widgets.Layout(display="none"),
        )
        return [
            _row(self.release, self.driver, self.machine, self.beside),
            _row(
                self.who,
                self.domain,
                *(button[name] for name in ("attach", "detach", "claim", "release")),
                *(button[name] for name in ("bind", "bind vfio-pci", "unbind")),
            ),
            _row(
                self.iova,
                self.paddr,
                self.size,
                self.rights,
                *(button[name] for name in ("map", "unmap", "dma_map", "dma_unmap")),
            ),
            self.shown,
            self.says,
            _row(
                self.step,
                *(button[name] for name in ("back", "forward", "start over", "10 ms pass")),
                self.as_file,
            ),
            self.file_box,
            self.events,
            Usable(),
        ]

    @contextmanager
    def _silence(self) -> Iterator[None]:
        """Controls that are set to what is already so do not answer."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    def _when_heard(self, changed: Callable[[], None]) -> Callable[[Any], None]:
        def listener(_: Any) -> None:
            if not self._quiet:
                changed()

        return listener

    # -- choosing a kernel and a machine --------------------------------------------------------

    def _choose_release(self) -> None:
        self._try(release=self.release.value)

    def _choose_driver(self) -> None:
        self._try(driver=self.driver.value, arch="")

    def _choose_beside(self) -> None:
        self._kernel = replace(self._kernel, compare=self.beside.value or None)
        self._redraw()

    def _choose_machine(self) -> None:
        if self.machine.value == OWN:
            return
        self._try(machine=self._machine(self._kernel.release, self._kernel.driver), steps=())

    def _machine(self, release: str, driver: str) -> Machine | None:
        if self.machine.value == OWN:
            return self._kernel.machine
        if self.machine.value == ONE:
            return None
        found = find_driver(driver, release)
        return Machine.default(found.arch, found.name)

    def _try(self, **changes: Any) -> None:
        """The same steps with something else changed; where that can't be, all stays as it is."""
        steps = changes.pop("steps", self._story.steps)
        try:
            kernel = replace(self._kernel, steps=(), at=None, **changes)
            kernel = replace(kernel, machine=self._machine(kernel.release, kernel.driver))
            story = kernel.lab().replay(steps)
        except ValueError as error:
            with self._silence():
                self.release.value = self._kernel.release
                self.driver.value = self._story.driver.name
            self._say(str(error).partition(": ")[2] or str(error))
            return
        self._kernel, self._story, self._at = kernel, story, len(story.steps)
        with self._silence():
            self._show_machine()
            self._show_addresses()
        self._redraw()

    def _show_machine(self) -> None:
        machine = self._kernel.machine
        kernel = self._story.kernel
        known = machine == Machine.default(kernel.arch, kernel.driver.name)
        word = ONE if machine is None else LAYOUT if known else OWN
        self.machine.options = [ONE, LAYOUT] + ([OWN] if word == OWN else [])
        self.machine.value = word
        lab = self._story
        groups = [(f"group {number}", number) for number in lab.machine.groups]
        _offer(self.who, [*((name, name) for name in lab.devices), *groups])

    def _show_addresses(self) -> None:
        """Addresses to begin with: one that the driver's table can hold, one that somebody owns."""
        self.iova.value = f"{self._story.driver.first + 0x1000_0000:#_x}"
        regions = self._story.machine.memory
        buffer = next((r for r in regions if r.owner == "driver buffer"), None)
        self.paddr.value = f"{buffer.first if buffer else 0:#_x}"

    # -- calling verbs --------------------------------------------------------------------------

    def _call(self, verb: str, *args: Any) -> Any:
        """Call a verb of the lab at this moment and show what became of it."""
        said = self._tell(verb, *args)
        if said is not REFUSED:
            self._redraw()
        return said

    def _tell(self, verb: str, *args: Any) -> Any:
        """Add a call to the story; what the verb says, None when the kernel did not take it.

        What is no call at all adds nothing and is answered with a sentence: REFUSED.
        """
        lab, said = self.lab, None
        try:
            said = getattr(lab, verb)(*args)
        except (OSError, KernelCrash, NotInRelease):
            pass  # an event of the lab; the picture says it
        except (ValueError, TypeError) as error:
            self._say(str(error))
            return REFUSED
        self._story, self._at = lab, len(lab.steps)
        return said

    def _device(self) -> str:
        who = self.who.value
        return who if isinstance(who, str) else str(self.lab.machine.groups[who][0].name)

    def _group(self) -> int:
        who = self.who.value
        return int(self.lab.state.devices[who].group if isinstance(who, str) else who)

    def _chosen_domain(self) -> str | None:
        """The domain that the controls name; a new one if they say so and the driver has one."""
        domain: str | None = self.domain.value or self._tell("alloc_domain", "unmanaged")
        if domain is None:
            self._redraw()
        return domain

    def _attach(self) -> None:
        self._with_domain("attach")

    def _detach(self) -> None:
        self._with_domain("detach")

    def _with_domain(self, verb: str) -> None:
        domain = self._chosen_domain()
        if domain is not None:
            what = "device" if isinstance(self.who.value, str) else "group"
            self._call(f"{verb}_{what}", domain, self.who.value)
            self._choose_domain(domain)

    def _choose_domain(self, domain: str) -> None:
        if domain in dict(self.domain.options).values():
            self.domain.value = domain

    def _map(self) -> None:
        where = self._addresses()
        domain = self._chosen_domain() if where else None
        if where and domain is not None:
            self._call("map", domain, *where, self.size.value, self.rights.value)
            self._choose_domain(domain)

    def _unmap(self) -> None:
        where = self._addresses()
        domain = self._chosen_domain() if where else None
        if where and domain is not None:
            self._call("unmap", domain, where[0], self.size.value)

    def _dma_map(self) -> None:
        where = self._addresses()
        direction = {"rw": "bidirectional", "r": "to_device", "w": "from_device"}
        if where:
            given = self._call(
                "dma_map", self._device(), where[1], self.size.value, direction[self.rights.value]
            )
            if isinstance(given, int):
                self.iova.value = f"{given:#_x}"

    def _dma_unmap(self) -> None:
        where = self._addresses()
        if where:
            self._call("dma_unmap", self._device(), where[0], self.size.value)

    def _addresses(self) -> tuple[int, int] | None:
        """The IOVA and the memory address as typed, or None and a sentence."""
        found = []
        for field in (self.iova, self.paddr):
            try:
                found.append(int(field.value, 0))
            except ValueError:
                name = field.description
                self._say(
                    f"{name}: an address is a whole number such as 0x1000, got {field.value!r}"
                )
                return None
        return found[0], found[1]

    # -- back and forth -------------------------------------------------------------------------

    def _go(self, step: int) -> None:
        self._at = min(max(step, 0), len(self._story.steps))
        self._redraw()

    def _start_over(self) -> None:
        self._story, self._at = self._story.at(0), 0
        self._redraw()

    # -- files ----------------------------------------------------------------------------------

    def _open_text(self) -> None:
        self._open_toml(self.text.value, "this text")

    def _open_upload(self) -> None:
        for file in self.upload.value:
            content = bytes(file["content"])[: LARGEST + 1]
            self._open_toml(content.decode("utf-8", "replace"), file["name"])
        with self._silence():
            self.upload.value = ()

    def _open_toml(self, text: str, name: str) -> None:
        try:
            self.play(Scenario.loads(text, name))
        except NotAScenario as error:
            self._say(str(error))

    # -- showing --------------------------------------------------------------------------------

    def _redraw(self) -> None:
        picture = self.picture
        self.shown.value = svg.draw(lay_out(picture), picture.says, self._prefix)
        self.says.value = _sentences([panel.says for panel in picture.panels])
        with self._silence():
            self.step.max = len(self._story.steps)
            self.step.value = self._at
            domains = self.lab.state.domains.values()
            named = [(d.name, d.name) for d in domains]
            _offer(self.domain, [("a new domain", ""), *named])
        self.events.value = _log(self._story, self._at)
        self.file_box.layout.display = "flex" if self.as_file.value else "none"
        if self.as_file.value:
            self.text.value = self.scenario.dumps()
            self.link.value = _download(self.text.value)

    def _say(self, sentence: str) -> None:
        """Answer with a sentence, and leave everything else as it is."""
        self.says.value = _sentences([sentence])


# -- pieces ----------------------------------------------------------------------------------------


def _narrow() -> widgets.Layout:
    return widgets.Layout(width="auto")


def _choice(description: str, options: list[Any], width: str) -> widgets.Dropdown:
    control = widgets.Dropdown(
        description=description, options=options, layout=widgets.Layout(width=width)
    )
    control.style.description_width = "initial"
    return control


def _field(description: str, width: str) -> widgets.Text:
    control = widgets.Text(
        description=description,
        continuous_update=False,
        layout=widgets.Layout(width=width),
    )
    control.style.description_width = "initial"
    return control


def _button(name: str, press: Callable[[], Any]) -> widgets.Button:
    control = widgets.Button(description=name, layout=_narrow())
    control.on_click(lambda _: press())
    return control


def _row(*controls: widgets.Widget) -> widgets.Box:
    return widgets.Box(
        list(controls), layout=widgets.Layout(flex_flow="row wrap", align_items="center")
    )


def _offer(choice: widgets.Dropdown, options: list[tuple[str, Any]]) -> None:
    """Other options, and still the same one chosen if it is among them."""
    if list(choice.options) == options:
        return
    chosen = choice.value
    choice.options = options
    if chosen in dict(options).values():
        choice.value = chosen


def _sentences(sentences: list[str]) -> str:
    each = "".join(f"<p style='margin:0;flex:1 1 0'>{escape(s)}</p>" for s in sentences)
    lines = 3 if len(sentences) == 1 else 6
    return (
        f"<div style='display:flex;gap:{GAP}px;max-width:{WIDTH}px;"
        f"min-height:{1.3 * lines}em;line-height:1.3'>{each}</div>"
    )


def _log(story: Lab, at: int) -> str:
    """Every step of the story with what happened in it, the newest first."""
    lines = []
    for number, moment in reversed(list(enumerate(story.moments))):
        look = "opacity:.75;font-style:italic" if number > at else ""
        now = " aria-current='step'" if number == at else ""
        step = escape(str(moment.step) if moment.step else "boot")
        happened = "".join(
            f"<div style='padding-left:2.5em'>{escape(event_line(e))}</div>" for e in moment.events
        )
        lines.append(f"<li value='{number}'{now} style='{look}'><b>{step}</b>{happened}</li>")
    return (
        "<div role='log' aria-label='event log' tabindex='0' "
        f"style='height:8em;overflow:auto;max-width:{WIDTH}px;line-height:1.35'>"
        f"<ol style='margin:0'>{''.join(lines)}</ol></div>"
    )


def _download(text: str) -> str:
    data = base64.b64encode(text.encode()).decode()
    return (
        "<a download='scenario.toml' style='text-decoration:underline' "
        f"href='data:application/toml;base64,{data}'>"
        "Save as scenario.toml</a>"
    )
