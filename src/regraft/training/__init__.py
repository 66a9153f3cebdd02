"""What happens to images and weights while something learns behind the cut; so far, how images are varied."""
