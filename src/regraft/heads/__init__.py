"""What learns on frozen features: logistic regression over a path of L2 strengths, nearest class mean."""
