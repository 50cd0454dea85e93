"""What a run comes to: scored, calibrated, drawn, and written down on the card of its model.

Train walk: training.worker.loop -> [conclude.py: scoring.py, confidence.py, plots.py, energy.py, card.py] -> training.bundle.bundle
"""
