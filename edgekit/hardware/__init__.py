"""What the machine is: detection, device profiles, sensors. The only package that reads sysfs.

Standard library and msgspec only: it runs in the supervisor.
"""
