"""The process that runs a pipeline: source, model, sinks; it takes orders from the supervisor."""
