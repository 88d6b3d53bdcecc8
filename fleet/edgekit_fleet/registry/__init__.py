"""Which models may be installed: bundles signed by their publisher, kept and served as a TUF repository.

On the publisher's machine: ``bundle`` reads and checks a bundle, ``keyring`` holds the publisher's keys,
``publisher`` signs and uploads. On the fleet server: ``repository`` checks what was signed and makes it
visible in one commit, ``blobs`` keeps the files by hash, ``api`` serves them, ``service`` runs it all.
``trust`` makes and checks TUF metadata for both sides. The publisher's keys never go to the server.

    bundle = read_bundle(Path("person-detect.ekb"))
    publisher.publish(bundle, Keyring(Path("keys")), RemoteRegistry(client), unix_ms())
"""
