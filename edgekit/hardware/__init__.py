"""What the machine is: detection, device profiles, sensors. The only package that reads sysfs.

In: the files below ``/``, or below a folder with another machine's files. Out: ``Facts`` (processor,
memory, buses, accelerators with their checks, warnings), the device profile that fits best with the
reasons, and sensor readings. Nothing here raises for a missing, unreadable or broken file.

    facts = detect()
    chosen = choose(load_profiles(), facts)
    values = Sensors(Path("/"), chosen.profile.telemetry).read()

Standard library and msgspec only: it runs in the supervisor.
"""
