"""Objects over frames: who is who, where they are, and what that means.

Imported only for a pipeline whose TOML has ``[track]``. Boxes go in; the same boxes with a track's number,
and events, come out::

    detector -> tracker.Tracker (ByteTrack) -> places.Places (zones and lines) -> watcher.Watcher -> events

``tables`` has the keys of ``[track]``, ``[[zone]]`` and ``[[line]]``; ``kalman`` and ``assign`` are the
arithmetic of the tracker, ``geometry`` that of the places. All of it is pure: time comes with the frames.

    lines = (LineTable(name="door", points=((0.5, 0), (0.5, 1))),)
    watcher = Watcher(TrackTable(), lines=lines, new_id=new_id)
    prediction, events = watcher.step(frame, prediction, threshold=0.5)
"""
