"""The other uses of a temporary overlay: one trial, binding, recursion.

Hinton & Plaut (1987) list in their introduction what an overlay of fast weights is good for besides
deblurring, and give no simulation of it. Each use has its model, findings and pictures here; the
experiments stand beside this folder.
"""
