"""The report of a compression study.

In: a ``Study``, the record of what ``edgekit optimize`` made, judged, measured and chose. Out:
``report.html`` (one page that works offline), ``report.json`` (the same data, read back by ``read_study``),
and the bundle's card in Markdown. Nothing here measures or decides; each module makes one part of the page.

>>> from edgekit_optimize.report.write import read_study, write_report
>>> html, data = write_report(study, folder)  # doctest: +SKIP
>>> read_study(data) == study  # doctest: +SKIP
True
"""
