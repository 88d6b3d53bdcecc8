"""What every HTTP route of the fleet manager shares, whatever it is about.

Goes in: the API tokens of the store, requests as FastAPI hands them over. Comes out: ``auth`` checks
bearer tokens and roles, ``problems`` turns errors into ``application/problem+json``, ``paging`` builds
pages with a cursor, ``bodies`` reads bounded request bodies, ``bus`` carries changes from any thread to
server-sent events. It knows no route, no device and no bundle, so every package above it can use it.

>>> from edgekit_fleet.web.paging import page_of
>>> page_of(["c", "b", "a"], limit=2, cursor=str)
(['c', 'b'], 'b')
"""
