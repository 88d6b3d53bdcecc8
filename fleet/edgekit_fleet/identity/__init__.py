"""Who is who: the fleet's certificate authority, and the enrolment of devices."""
