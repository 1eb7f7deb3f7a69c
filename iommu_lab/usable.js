// Names and keys for the ipywidgets controls in one panel.
//
// ipywidgets 8 leaves sliders unnamed and toggles without a pressed state, has no word for a
// text that announces itself, and JupyterLab takes plain keys such as "b" and ArrowDown from a
// focused <select>. Each fix below names the gap it closes.

function mend(panel) {
  // JupyterLab's command-mode shortcuts must not fire from inside a control.
  for (const control of panel.querySelectorAll("input, select, button, textarea, .noUi-handle")) {
    control.setAttribute("data-lm-suppress-shortcuts", "true");
  }
  // A slider's handle is a control of its own, without a name.
  for (const handle of panel.querySelectorAll(".noUi-handle")) {
    handle.setAttribute("aria-label", labelOf(handle.closest(".widget-slider")));
  }
  for (const toggle of panel.querySelectorAll(".widget-toggle-button")) {
    toggle.setAttribute("aria-pressed", String(toggle.classList.contains("mod-active")));
  }
  // The element stays while its content changes: only then is the change read out.
  for (const says of panel.querySelectorAll(".iommu-says:not([role])")) {
    says.setAttribute("role", "status");
  }
}

function labelOf(control) {
  return control?.querySelector(".widget-label")?.textContent ?? "";
}

export default {
  render({ el }) {
    let panel;
    const watcher = new MutationObserver(() => mend(panel));
    requestAnimationFrame(() => {
      panel = el.parentElement;
      mend(panel);
      watcher.observe(panel, { subtree: true, childList: true, attributeFilter: ["class"] });
    });
    return () => watcher.disconnect();
  },
};
