"""The broker: the embedded one, who may use it, the way down to devices, and files for mosquitto."""
