"""What bench/run.py is made of: cases, contenders, measurement, targets, reports."""
