"""`./saltern demo`: a guided tour on a running fleet, each property shown by doing it and measuring it.

``results`` and ``page`` are pure: what a step came to, the table, the line of JSON, the page. ``plant``, ``visitors``
and ``losses`` are the hands, which tests and benches have as well. ``steps`` does things, ``tour`` leads through them.
"""
