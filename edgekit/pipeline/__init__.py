"""From frames to events: sources, preprocessing, decoders, the loop, sinks."""
