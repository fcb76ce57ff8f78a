"""The trainer and the ways a user would train these nets without it, one module a framework.

Each has `WAYS`, the names of its ways, and `measure(way, net, batch_size, seconds)`, images per
second once compiled. All train with Adam on the same images, which lie in memory: on their squared
error, or the vae on the negative ELBO of images binarised anew in each step. The peers take the
grey levels as its targets, which costs them no more.
"""
