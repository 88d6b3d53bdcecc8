"""The identities of devices: the fleet's certificate authority, and enrolment.

Goes in: an enrolment token and a certificate signing request. Comes out: a device's name and its
certificate, which the broker checks at every connection. ``authority`` issues certificates, ``enrol``
decides who gets one. The CA's key never leaves the data folder.

    device, certificate, is_new = Enrolment(database, authority, devices, tokens).enroll(request, unix_ms())
"""
