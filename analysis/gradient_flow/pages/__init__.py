"""One HTML page of a run, which opens without a server or a network. Only this room imports plotly.

Start with `run_page`: `report`. `run_numbers` reads a run's files, whatever is missing in them;
`figure_numbers`, `figure_parts` and `watch_numbers` thin them to what a screen shows; `verdict_words` puts
what they say into sentences; `html_page` lays all of it, `page_sections` by section, into one file, with the
style and the scripts in ``web/``.

May import: `measurements`, `verdicts`, the rooms above them and `results_folder`.
"""
