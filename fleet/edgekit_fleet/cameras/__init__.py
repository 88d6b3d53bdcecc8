"""Cameras that the fleet defines for its devices, by device or by label, with passwords kept apart.

A list says where cameras are; a password goes in and comes out only in the answer to the device that needs
it. A device's desired state names the digest of its list, and the device fetches the list by HTTPS.

>>> from edgekit_fleet.cameras.service import CameraService, Target
>>> service.set_list(
...     Target("label", "entrance"), [Camera(name="door", kind="rtsp", uri="rtsp://10.0.0.5/2")], by=actor
... )  # doctest: +SKIP
>>> service.set_password(Target("label", "entrance"), "door", "correct horse", by=actor)  # doctest: +SKIP
"""
