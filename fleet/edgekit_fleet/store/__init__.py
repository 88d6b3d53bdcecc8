"""The fleet's database, and every SQL statement of the fleet manager.

Goes in: structs and plain values. Comes out: structs of rows, which the packages above map to what they
mean. ``database`` opens SQLite, one writer at a time, and runs numbered migrations; each other module
owns the tables of one subject and their queries. A commit is on disk when it returns.

>>> database = open_database(data_folder)  # doctest: +SKIP
>>> devices = Devices(database)  # doctest: +SKIP
>>> with database.transaction():  # doctest: +SKIP
...     devices.touch({"cam-1": unix_ms()})
"""
