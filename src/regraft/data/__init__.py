"""From files to pixels: which images there are, what they show, who is held out."""
