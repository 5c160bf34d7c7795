"""The stages of the chain: each a module with `run(folder, node, context)`, loaded on demand.

A stage writes its files into `folder` and returns what is worth knowing as a JSON-able
mapping. The table of stages, with their versions, stands in `edgekd.nodes`.
"""
