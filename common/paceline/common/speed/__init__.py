"""What each way of generating costs, as formulas and as a simulation: for controllers, plans and reports.

All assume that drafted tokens stand independently with probability `acceptance`, and constant costs. Real texts do not
keep to that, so these plan and explain; they do not replace measuring (`paceline bench link`).
"""
