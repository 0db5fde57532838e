"""Style of the demo: colours, fonts that every system has, and the texts around the tabs."""

from typing import Any

import gradio as gr

SANS = ("ui-sans-serif", "system-ui", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

HEADER = """
<header class="dino-header">
  <h1>See what DINO sees</h1>
  <p>A network that learned from pictures alone, without a single label.
  Choose a photo and look through its eyes.</p>
</header>
"""

FOOTER = """
<footer class="dino-footer">
  Pictures stay on the machine that runs this page and are deleted after about an hour.<br>
  Method: <a href="https://arxiv.org/abs/2104.14294" target="_blank" rel="noopener">Caron et al.,
  Emerging Properties in Self-Supervised Vision Transformers, 2021</a><br>
  Example photos: cat by Stefan van der Walt and coffee by Rachel Michetti (CC0), astronaut by NASA
  and rocket by SpaceX (public domain), temple by danielbuechele and flower by vultilion
  (<a href="https://creativecommons.org/licenses/by/2.0/" target="_blank" rel="noopener">CC BY
  2.0</a>)
</footer>
"""

HEAD = """
<meta name="color-scheme" content="light dark">
<script>
const mend = () => {
  document.querySelectorAll("button.gallery-item:not([aria-label])").forEach((button) => {
    const siblings = [...button.parentElement.children];
    button.setAttribute("aria-label", `Example ${siblings.indexOf(button) + 1}`);
  });
  document.querySelectorAll("button:has(img):not([aria-label])").forEach((button) => {
    if (!button.innerText.trim()) button.setAttribute("aria-label", "Picture");
  });
  document.querySelectorAll("div.empty[aria-label]:not([role])").forEach((empty) =>
    empty.setAttribute("role", "img"));
  document.querySelectorAll("button input[type=file]:not([tabindex='-1'])").forEach((input) =>
    input.setAttribute("tabindex", "-1"));
  document.querySelectorAll("button.icon-button:has(button, input):not([role])").forEach((one) => {
    one.setAttribute("role", "group");
    one.setAttribute("aria-label", "Add photos");
    one.setAttribute("title", "Add photos");
  });
};
new MutationObserver(mend).observe(document, {childList: true, subtree: true});
</script>
"""
"""The script gives what Gradio leaves without names the names that screen readers need."""

CSS = """
.gradio-container { width: 100%; }
.gradio-container .app { max-width: 1240px; }
.dino-header h1 { font-size: 1.9rem; font-weight: 700; margin: 0; letter-spacing: -0.02em; }
.dino-header p, .dino-footer, .hint .prose *, #about-network .prose * {
  color: var(--body-text-color-subdued);
}
.dino-header p { margin: 0.25rem 0 0; font-size: 1.05rem; }
.dino-footer { border-top: 1px solid var(--border-color-primary); font-size: 0.85rem; }
.dino-footer { margin-top: 1rem; padding: 1rem 0 0; line-height: 1.6; }
.dino-footer a { color: inherit; text-decoration: underline; }
.hint, .hint p, .hint strong { font-size: 0.9rem; }
#about-network { font-size: 0.9rem; align-self: center; }
.tab { display: grid !important; grid-template-columns: minmax(0, 2fr) minmax(0, 3fr); }
.tab { grid-template-rows: auto 1fr; align-items: start; gap: var(--layout-gap); }
.tab > .ask { grid-area: 1 / 1; }
.tab > .settings { grid-area: 2 / 1; }
.tab > .result { grid-area: 1 / 2 / span 2; scroll-margin-top: 12px; }
.tab-wrapper { overflow-x: auto; scrollbar-width: thin; height: auto !important; }
.tab-wrapper > .tab-container:not(.visually-hidden) { min-width: 64rem; }
.tab-wrapper .overflow-menu { display: none; }
.notice { border-left: 3px solid var(--color-accent); padding: 0.5rem 1rem; }
.block.empty { border: 1px dashed var(--border-color-primary) !important; }
.block.empty { padding: 3.5rem 1.5rem !important; text-align: center; }
.pair { flex-wrap: nowrap; }
.pair input { text-overflow: ellipsis; }
.flush .html-container, .flush .prose { padding: 0; max-width: none; }
#attention-gallery .grid-container { grid-template-columns: repeat(auto-fill, minmax(92px, 1fr)); }
#attention-gallery .grid-wrap { min-height: 0; max-height: none; }
#attention-gallery .caption-label { font-size: 0.75rem; padding: 1px 6px; max-width: 100%; }
footer .divider:last-child { display: none; }
@media (max-width: 760px) {
  .tab { grid-template-columns: minmax(0, 1fr); grid-template-rows: none; }
  .tab > .ask, .tab > .settings, .tab > .result { grid-area: auto; }
}
@media (max-width: 640px) {
  .gradio-container .app { padding: 12px; }
  .dino-header h1 { font-size: 1.5rem; }
  .dino-header p { font-size: 0.95rem; }
}
"""


def to_result(elem_id: str) -> str:
    """Script that brings a result into view after an upload, where it does not lie beside it.

    A page that has just opened stays where it is: nobody has touched it yet.
    """
    return f"""() => {{
      const part = document.getElementById("{elem_id}");
      if (part && navigator.userActivation.hasBeenActive && innerWidth <= 760)
        part.scrollIntoView({{behavior: "smooth", block: "start"}});
    }}"""


def theme() -> Any:
    """Quiet neutral grounds with one warm accent; light and dark."""
    return gr.themes.Default(
        primary_hue="orange",
        secondary_hue="orange",
        neutral_hue="zinc",
        radius_size="lg",
        font=SANS,
        font_mono=MONO,
    ).set(
        body_background_fill="*neutral_50",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*body_text_color_subdued",
        block_label_text_color="*body_text_color_subdued",
        block_label_text_color_dark="*body_text_color_subdued",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_400",
    )
