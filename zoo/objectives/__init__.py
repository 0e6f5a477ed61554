"""What is maximised: small functions of log weights, one file a family of objectives.

An objective is a callable ``(model, guide, batch) -> loss``, minimised, in nats per datapoint.
"""
