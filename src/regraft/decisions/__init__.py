"""What a probability means and what to do about it: calibration, unknown images, rules of decision."""
