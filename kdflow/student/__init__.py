"""What an exported student carries along beside its model: plain code that treats a picture as kdflow's evaluation does.

The files here import nothing of kdflow, and ``student.py`` holds their text as it is.
"""
