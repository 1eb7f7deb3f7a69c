"""How fast is the checker, against whom, and against which limit of the machine?"""
