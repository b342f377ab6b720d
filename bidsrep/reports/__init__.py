"""What people look at: reportlets (figures), the subject's page, the cohort's page and tables.

Everything is made from the derivatives alone and holds no time, host or absolute path: the same
derivatives give the same bytes.
"""
