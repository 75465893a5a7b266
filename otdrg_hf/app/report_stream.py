"""The report of one study as it is written: its text so far, and at the end the whole answer of the pipeline."""

import threading
from collections.abc import Iterator

from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

from .film_study import FilmStudy


class StopWhenSet(StoppingCriteria):
    """Ends generation at the next token once `stop` is set."""

    def __init__(self, stop: threading.Event):
        self.stop = stop

    def __call__(self, input_ids, scores, **kwargs):
        return input_ids.new_full(input_ids.shape[:1], self.stop.is_set(), dtype=bool)


def stream_report(report, study: FilmStudy, max_new_tokens: int = 256) -> Iterator[str | dict]:
    """
    Runs the pipeline in a thread and follows it.

    Args:
        report ([`RadiologyReportPipeline`]): Writes.
        study ([`FilmStudy`]): Its `stop` ends the writing early; so does closing this generator.
        max_new_tokens (`int`, *optional*, defaults to 256): Bound on the length of the report, in tokens.

    Yields:
        `str`: The text so far, longer each time; last of all the pipeline's answer, a `dict`.

    Raises:
        Whatever the pipeline raises.
    """
    streamer = TextIteratorStreamer(report.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    options = {"stopping_criteria": StoppingCriteriaList([StopWhenSet(study.stop)])}
    if (report.model.generation_config.num_beams or 1) == 1:  # beams have no text until the last of them ends
        options["streamer"] = streamer
    outcome = {}

    def write():
        try:
            outcome["answer"] = report(
                study.inputs(), evidence=True, max_new_tokens=max_new_tokens, generate_kwargs=options
            )
        except Exception as error:
            outcome["error"] = error
        finally:
            streamer.end()

    writer = threading.Thread(target=write, daemon=True)
    study.stop.clear()
    writer.start()
    text = ""
    try:
        for piece in streamer:
            text += piece
            if piece:
                yield text.strip()
    except GeneratorExit:  # the page was closed
        study.stop.set()
        raise
    finally:
        writer.join()
    if "error" in outcome:
        raise outcome["error"]
    yield outcome["answer"]
