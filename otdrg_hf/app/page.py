"""The page itself: its parts, and which event each of them starts."""

from collections.abc import Callable
from functools import partial
from html import escape
from pathlib import Path

import gradio as gr

from otdrg_hf.app import views
from otdrg_hf.app.events import PageEvents
from otdrg_hf.app.study import EXAMPLE_SEEDS

NOT_CLINICAL = "Research software. Not a medical device, not for clinical use."
IMAGES_HEAD = (
    "<h2>Images</h2><p class='otdrg-hint'>PNG, JPEG, TIFF or DICOM, up to 200 MB each. "
    "Drop all views of one study together; they stay on the machine that serves this page.</p>"
)
REFUSED = "<p class='otdrg-error' role='alert' hidden></p>"
ASSETS = Path(__file__).parent
MAX_FILE_SIZE = 200 * 2**20
# What is chosen on the page at the moment of the click, by parts that are not Gradio's.
WITH_CHOICES = "(study, choices, ...typed) => [study, otdrg.choices(), ...typed]"
WITH_POINT = "(paths, point) => [paths, otdrg.point()]"


def build_page(report, model_name: str, notice: str = "") -> gr.Blocks:
    """
    Builds the page.

    Args:
        report ([`RadiologyReportPipeline`]): Writes the reports.
        model_name (`str`): How the page calls the model; not a path.
        notice (`str`, *optional*): What to say about the model in addition to the not-for-clinical-use line.
    """
    events = PageEvents(report, model_name)
    with gr.Blocks(title="OTDRG: chest X-ray report", analytics_enabled=False, delete_cache=(60, 600)) as page:
        parts = {"study": gr.State()}
        choices, point = gr.Textbox(visible="hidden"), gr.Textbox(visible="hidden")
        gr.HTML(_head(model_name, notice), elem_classes="otdrg-top")
        with gr.Row(equal_height=False):
            with gr.Column(min_width=320):
                gr.HTML(IMAGES_HEAD)
                parts["drop"] = gr.File(
                    label="Images", show_label=False, file_count="multiple", height=144, elem_id="otdrg-drop"
                )
                gr.HTML(REFUSED, elem_id="otdrg-refused")
                parts["message"] = gr.HTML(elem_id="otdrg-message")
                with gr.Row(elem_classes="otdrg-examples"):
                    examples = [
                        gr.Button(f"Synthetic example {number}", size="sm", min_width=90)
                        for number in range(1, len(EXAMPLE_SEEDS) + 1)
                    ]
                parts["images"] = gr.HTML(views.NO_IMAGES)
                opacity = gr.Slider(
                    0, 100, value=60, step=5, label="Opacity of the evidence, %", elem_id="otdrg-opacity"
                )
            with gr.Column(min_width=320):
                gr.HTML("<h2>Report</h2>")
                parts["unfamiliar"] = gr.HTML(elem_id="otdrg-unfamiliar")
                parts["report"] = gr.HTML(views.NO_REPORT, elem_id="otdrg-report")
                if report.model.config.operating_curves is not None:
                    gr.HTML(views.POINTS, elem_id="otdrg-point")
                parts["offer"] = gr.HTML(elem_id="otdrg-offer")
                with gr.Row():
                    parts["rewrite"] = gr.Button(
                        "Write the report again", variant="primary", interactive=False, elem_id="otdrg-rewrite"
                    )
                    resume = gr.Button("Continue from the cursor", elem_id="otdrg-resume")
                    parts["stop"] = gr.Button("Stop", visible=False, elem_id="otdrg-stop")
                read = gr.Button("Read the changes", visible="hidden", elem_id="otdrg-read")
                with gr.Accordion("What is known of the patient", open=False):
                    parts["indication"] = gr.Textbox(label="Indication", placeholder="Cough.", max_length=1000)
                    parts["comparison"] = gr.Textbox(label="Earlier report", lines=3, max_length=4000)
                gr.HTML("<h2>Labels</h2>")
                parts["labels"] = gr.HTML(views.NO_LABELS, elem_id="otdrg-labels")
        # One report at a time: the model is one, and it fills the machine.
        options = {
            "outputs": list(parts.values()),
            "concurrency_limit": 1,
            "concurrency_id": "model",
            "show_progress": "hidden",
            "api_visibility": "private",
        }
        parts["drop"].upload(_updates(events.upload, parts), [parts["drop"], point], js=WITH_POINT, **options)
        for button, seed in zip(examples, EXAMPLE_SEEDS, strict=True):
            button.click(_updates(partial(events.example, seed), parts), point, js="() => [otdrg.point()]", **options)
        typed = [parts["indication"], parts["comparison"]]
        inputs = [parts["study"], choices, *typed]
        parts["rewrite"].click(_updates(events.rewrite, parts), inputs, js=WITH_CHOICES, **options)
        resume.click(_updates(events.resume, parts), inputs, js=WITH_CHOICES, **options)
        # Not the model's turn: edits are read while it writes.
        reading = {key: options[key] for key in ("show_progress", "api_visibility")}
        reading |= {"outputs": parts["offer"], "concurrency_limit": None, "trigger_mode": "always_last"}
        read.click(lambda *given: events.read_changes(*given)["offer"], inputs[:2], js=WITH_CHOICES, **reading)
        parts["stop"].click(events.stop, parts["study"], None, queue=False, api_visibility="private")
        opacity.change(None, opacity, None, js="(percent) => otdrg.opacity(percent)", api_visibility="private")
    return page


def _head(model_name: str, notice: str) -> str:
    return (
        f"<header><h1>OTDRG <span>chest X-ray report</span></h1><p>{escape(model_name)}</p></header>"
        f'<p class="otdrg-notice" role="note"><strong>{NOT_CLINICAL}</strong> {escape(notice)}</p>'
    )


def _updates(event: Callable, parts: dict) -> Callable:
    """An event, whose updates are by the names of parts, as one whose updates are by Gradio's components."""

    def run(*inputs):
        for changes in event(*inputs):
            writing, ready = changes.pop("writing", None), changes.pop("ready", None)
            if writing is not None:
                changes["rewrite"] = gr.Button(interactive=not writing)
                changes["stop"] = gr.Button(visible=writing)
            elif ready is not None:
                changes["rewrite"] = gr.Button(interactive=ready)
            yield {parts[name]: value for name, value in changes.items()}

    return run


def theme() -> gr.themes.Base:
    """Greys and system fonts: nothing is fetched."""
    return gr.themes.Base(
        primary_hue="cyan",
        neutral_hue="slate",
        radius_size="sm",
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    ).set(
        # Gradio's own primary is too pale for white letters.
        button_primary_background_fill="*primary_800",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_800",
        button_primary_background_fill_hover_dark="*primary_700",
        slider_color="*primary_800",
        slider_color_dark="*primary_600",
    )
