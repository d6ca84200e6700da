import { IMAGES } from '../../../hack/nodes/images.ts';
import { ImageSpec, ImageServiceService as Images, PullImageRequest } from '../../../src/gen/cri.ts';
import { one, twins, UNTIL_QUIET } from './step.ts';
import type { Twin } from './twin.ts';

const named = (name: string) => () => ({ image: ImageSpec.fromPartial({ image: name }) });
const status =
  (name: string, verbose = false) =>
  () => ({ ...named(name)(), verbose });
const own = (twin: Twin) => named(twin.own('image'))();
const ownStatus = (twin: Twin) => status(twin.own('image'))();
const pull = (name: string) => () =>
  PullImageRequest.fromPartial({ ...named(name)(), auth: { username: 'somebody', password: 'secret' } });
const list = (name: string) => () => ({ filter: named(name)() });

const NONE = 'gantry.lab/none:1';
const NO_NAME = 'NOT A NAME';
// Nobody listens on port 1.
const UNREACHABLE = '127.0.0.1:1/none:1';

export const imageSteps = [
  one('ListImages', Images.listImages, () => ({ filter: undefined })),
  one('ListImages of one name', Images.listImages, list(IMAGES.busybox)),
  one('StreamImages', Images.streamImages, () => ({ filter: undefined }), { since: 'later' }),
  one('ImageStatus', Images.imageStatus, status(IMAGES.busybox), { sameBytes: true }),
  one('ImageStatus, verbose', Images.imageStatus, status(IMAGES.redis, true), { sameBytes: true }),
  one('ImageStatus of an image that is not there', Images.imageStatus, status(NONE, true), { sameBytes: true }),
  one('ImageStatus of no image', Images.imageStatus, () => ({ image: undefined, verbose: false }), { status: 'any' }),
  one('ImageFsInfo', Images.imageFsInfo, () => ({}), { attempts: UNTIL_QUIET }),
  one('PullImage from a registry that does not answer', Images.pullImage, pull(UNREACHABLE), { status: 'failure' }),
  one('PullImage of a name that is none', Images.pullImage, pull(NO_NAME), { status: 'failure' }),
  twins("ImageStatus of a twin's image", Images.imageStatus, ownStatus),
  twins('RemoveImage', Images.removeImage, own),
  twins('RemoveImage of an image that was removed', Images.removeImage, own),
  twins('ImageStatus of an image that was removed', Images.imageStatus, ownStatus),
  one('RemoveImage of a name that is none', Images.removeImage, named(NO_NAME), { status: 'any' }),
];
