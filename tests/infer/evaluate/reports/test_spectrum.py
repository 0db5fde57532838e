import numpy as np

from dino_infer.evaluate.reports.spectrum import spectrum_picture


def test_curves_of_all_contestants_are_drawn_though_one_is_zero_throughout():
    spectra = {"model": np.geomspace(100, 1, 30), "untrained": np.zeros(12), "$_x$": np.ones(1)}
    picture = spectrum_picture(spectra)
    assert picture.width > 600 and len(picture.convert("RGB").getcolors(1 << 20)) > 3
