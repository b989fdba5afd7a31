"""A trained detector in the forms that others take, each checked against kdflow's own detections."""
