"""Build time only: networks to model files, quantisation, the zoo's recipes."""
