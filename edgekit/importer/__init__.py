"""Makes a bundle of a foreign model file: recognised, tried, never guessed.

In: one or several files of one model, and what the user states. Out: a bundle, and every conclusion with its
source: the file's metadata, its signature, its answers, its family's convention (*assumed*), or a flag.

    from edgekit.importer.importing import import_model

    report = import_model([Path("yolo11n.onnx")], Path("yolo11n.bundle"))

``readers`` read files, ``families`` recognise them, ``decide`` judges between families, ``trial`` runs files
in child processes, ``build`` writes the bundle.
"""
